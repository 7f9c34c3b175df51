"""Going back through outputs with given gradients, without what torch imports for that.

Loaded by backends/torch.py by path. Python 3.7 syntax. torch 2.13's ``autograd.backward(outputs, gradients)``
imports SymPy to compare their shapes, which takes 0.4 s of CPU time in every process; from a scalar it needs none.
"""

_KIND = []


def kind(torch):
    """The function that turns an output into a scalar whose gradient is the one that was given."""
    if not _KIND:

        class Sown(torch.autograd.Function):
            @staticmethod
            def forward(ctx, out, gradient):
                ctx.gradient = gradient
                return out.new_zeros(())

            @staticmethod
            def backward(ctx, _):
                return ctx.gradient, None

        _KIND.append(Sown)
    return _KIND[0]


def backward(torch, outs, gradients, keep_graph):
    """``torch.autograd.backward``. The same tensors arrive at the outputs, in the same order."""
    plain = all(
        out.shape == gradient.shape and out.dtype.is_floating_point
        for out, gradient in zip(outs, gradients)  # noqa: B905 - Python 3.7
    )
    if not plain:  # torch says what is wrong with it
        torch.autograd.backward(outs, gradients, retain_graph=keep_graph)
        return
    sow = kind(torch).apply
    torch.autograd.backward(
        [sow(out, gradient) for out, gradient in zip(outs, gradients)],  # noqa: B905 - Python 3.7
        retain_graph=keep_graph,
    )
