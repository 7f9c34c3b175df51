"""How a watched layer is called: its path in the outermost module that runs.

Loaded by watching.py by path. Python 3.7 syntax.
"""

import sys
import weakref

keeping = sys.modules["bncheck_torch_keeping"]  # watching.py has loaded it
WRAPPERS = {"DistributedDataParallel": "module", "DataParallel": "module", "OptimizedModule": "_orig_mod"}


class Naming:
    """The part of Watching that names layers: by ``recorder``, ``local`` and ``tree``, its last look at a root."""

    def name(self, norm, module, root):
        """Name a layer after its path in the outermost module that runs."""
        layer = norm.layer
        if layer.name and layer.registered:
            return
        root = unwrapped(root)
        if layer.name and (root is module or norm.root == id(root)):
            return
        norm.root = id(root)
        paths = self.paths(root, module) if root is not module else []
        kind = type(module).__name__
        if paths:
            layer.registered = True
            if "." not in layer.name:
                layer.name, layer.names = self.free(paths[0], root, layer), tuple(paths)
        elif not layer.name:
            inner = next((each for each in self.local.stack[1:] if self.paths(each, module)), None)
            if inner is not None:  # a model that was handed to the outermost module, or lies aside in it
                paths = self.paths(inner, module)
                layer.name, layer.names = self.free(paths[0], inner, layer), tuple(paths)
            else:
                number = sum(other.name.startswith(kind + "#") for other in self.recorder.layers) + 1
                layer.name = self.free("%s#%d" % (kind, number), root, layer)
            layer.registered = self.kept_aside(root, module)

    def kept_aside(self, root, module):
        """False where the layer, or a module that runs it, lies in a list or dict of one that is being called, and the
        outermost does not reach it; None where it was handed in from outside, or made for this forward."""
        callers = [unwrapped(root), *self.local.stack]
        inner = [*self.local.stack[1:], module]
        aside = any(keeping.holds(caller, each) for caller in callers for each in inner if caller is not each)
        return False if aside else None

    def paths(self, root, module):
        """All paths of a module below a root; the tree is walked once for all layers that are met in a beat."""
        if self.tree[0] is None or self.tree[0]() is not root or id(module) not in self.tree[1]:
            self.tree = (weakref.ref(root), tree_of(root))
        return self.tree[1].get(id(module), [])

    def seen_in(self, root, norms):
        """A module that holds others says where in it they lie: state_dict() and train() see more than a forward."""
        root = unwrapped(root)
        for norm in norms:
            module = norm.module()
            if module is None or module is root:
                continue
            paths = self.paths(root, module)
            layer = norm.layer
            if paths and (not layer.name or "#" in layer.name or len(paths[0]) > len(layer.names[0])):
                layer.name, layer.names = self.free(paths[0], root, layer), tuple(paths)

    def free(self, name, root, layer):
        """Two models of one program may have layers of the same path."""
        taken = {other.name for other in self.recorder.layers if other is not layer}
        if name in taken:
            name = "%s.%s" % (type(root).__name__, name)
        plain, number = name, 2
        while name in taken:
            name, number = "%s (%d)" % (plain, number), number + 1
        return name


def unwrapped(root):
    while type(root).__name__ in WRAPPERS:
        inner = getattr(root, WRAPPERS[type(root).__name__], None)
        if inner is None:
            break
        root = inner
    return root


def tree_of(root):
    """id of each module below a root → its paths, in the order of the tree; a cycle is walked once."""
    found, stack, budget = {}, [("", root, ())], 200000
    while stack and budget:
        budget -= 1
        path, here, above = stack.pop()
        found.setdefault(id(here), []).append(path)
        for name, child in reversed(list(here._modules.items())):
            if child is not None and child is not here and child not in above:
                stack.append((path + "." + name if path else name, child, above + (here,)))
    return found
