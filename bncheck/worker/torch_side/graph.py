"""The autograd graph behind the buffers of a layer, as DOT text (Graphviz), for a person to look at.

Loaded by backends/torch.py by path. Python 3.7 syntax. One box per buffer, one node per step of autograd; leaves carry
the name of their parameter. Graphs larger than MOST are cut, and say how much is left out.
"""

import os

MOST = 300


def draw(model, folder, layer=None):
    """Write graph-<layer>.dot for every layer (or the one named) whose buffers have a graph behind them."""
    custom = model.part("custom")
    leaves = {id(tensor): name for name, tensor in model.net.named_parameters()}
    leaves.update((id(data), "input of forward %d" % (n + 1)) for n, (data, _) in enumerate(model.tape))
    written, count = [], getattr(model, "graphs_drawn", 0) + 1
    model.graphs_drawn = count
    for name, norm in model.norms.items():
        held = custom.kept_tensors(model.torch, norm)
        roots = {key: tensor.grad_fn for key, tensor in held.items() if tensor.grad_fn is not None}
        if layer in (None, name) and roots:
            file = "graph-%s-%d.dot" % (name, count)
            with open(os.path.join(folder, file), "w", encoding="utf-8") as handle:
                handle.write(dot(name, roots, leaves))
            written.append(file)
    return {"artifacts": written}


def dot(layer, roots, leaves):
    """``roots`` maps a buffer to its grad_fn, ``leaves`` the id of a tensor to its name."""
    lines = ["digraph %s {" % quoted("behind the buffers of " + layer), "  rankdir = RL;"]
    numbers, order = {}, []
    for buffer, node in sorted(roots.items()):
        lines.append("  %s [shape = box, style = filled, fillcolor = lightgrey];" % quoted(buffer))
        lines.append("  %s -> n%d;" % (quoted(buffer), number(node, numbers, order)))
    left_out, at = 0, 0
    while at < len(order):
        node = order[at]
        lines.append("  n%d [label = %s];" % (at, quoted(label(node, leaves))))
        for following, _ in node.next_functions:
            if following is None:
                continue
            if following in numbers or len(order) < MOST:
                lines.append("  n%d -> n%d;" % (at, number(following, numbers, order)))
            else:
                left_out += 1
        at += 1
    if left_out:
        lines.append("  %s [shape = plaintext];" % quoted("cut after %d nodes: %d more edges" % (MOST, left_out)))
    return "\n".join(lines + ["}", ""])


def number(node, numbers, order):
    """A node's number; ``numbers`` holds on to the nodes, so that no address is used twice."""
    if node not in numbers:
        numbers[node] = len(order)
        order.append(node)
    return numbers[node]


def label(node, leaves):
    kind = type(node).__name__
    leaf = getattr(node, "variable", None)
    return "%s\n%s" % (kind, leaves.get(id(leaf), "a leaf")) if leaf is not None else kind


def quoted(text):
    return '"%s"' % text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
