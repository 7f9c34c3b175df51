"""Functions of a Flax model: compiled, as a training loop of Flax runs them, and as they are where jax.jit refuses.

A layer of the user's may branch on values, which is Python's to do and not jax.jit's. Loaded by path; Python 3.7
syntax.
"""

REFUSALS = ("ConcretizationTypeError", "TracerArrayConversionError", "TracerBoolConversionError",
            "TracerIntegerConversionError", "NonConcreteBooleanIndexError")  # fmt: skip


def functions(jax, play, jit, to_the_input=True):
    """Those of one model: forward, recorded (with what goes back), backward. ``to_the_input``: whether the input asks
    for a gradient, too."""

    def with_gradient(static, mode, params, stats, x):
        if not to_the_input:
            return jax.vjp(lambda p: play(static, mode, p, stats, x), params, has_aux=True)
        return jax.vjp(lambda p, v: play(static, mode, p, stats, v), params, x, has_aux=True)

    return {
        "forward": jit(play, static_argnums=(0, 1)),
        "recorded": jit(with_gradient, static_argnums=(0, 1)),
        "backward": jit(lambda pull, dy: pull(dy)),
    }


def as_it_is(function, **_):
    return function


class Willing:
    """The functions by name; without jax.jit from the first time on that it refuses, and ``remark`` says so."""

    def __init__(self, jax, play, compiled, custom, to_the_input=True):
        self.compiled, self.plain, self.custom = compiled, functions(jax, play, as_it_is, to_the_input), custom
        self.refusals = tuple(getattr(jax.errors, name) for name in REFUSALS if hasattr(jax.errors, name))
        self.remark = ""

    def __getitem__(self, name):
        return lambda *given: self.call(name, given)

    def call(self, name, given):
        if not self.remark:
            try:
                return self.compiled[name](*given)
            except self.refusals as error:
                self.remark = (
                    "It was played without jax.jit, which refuses it: %s"
                    % (self.custom.said(error).split("\n")[0][:200])
                )
        return self.plain[name](*given)
