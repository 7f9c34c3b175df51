"""Straight Keras on one engine: one layer, the user's or BatchNormalization, or a model of the user's."""

from __future__ import annotations

from typing import Any

from bncheck.repro.standalone import own_layer, own_model
from bncheck.repro.standalone.frame import VERSION
from bncheck.repro.standalone.literal import keywords
from bncheck.repro.standalone.own_layer import Made
from bncheck.repro.standalone.steps import Step
from bncheck.repro.standalone.subject import CannotWriteError, Subject
from bncheck.run_folder.results import TargetResult
from bncheck.scenario import Layer, op_of
from bncheck.trace import Array

NAMES = {"running_mean": "moving_mean", "running_var": "moving_variance", "gamma": "gamma", "beta": "beta"}
TAKEN = (
    "jax",
    "torch",
    "keras",
    "recorded",
    "back",
    "partial",
    "fixed",
    "pull",
    "pulls",
    "moved",
    "grads",
    "dx",
    "values",
    "kept",
    "found_grads",
    "seeded",
    "other",
    "dice",
    "mine",
    "its",
    "here",
    "there",
    "fan_in",
)
ENGINES = {"": "jax", "jax": "jax", "builtin": "jax", "torch": "torch", "builtin_torch": "torch"}


def requirements(target: TargetResult) -> list[str]:
    return [f"keras=={target.version}" if VERSION.fullmatch(target.version) else "keras", engine(target.variant)]


def engine(variant: str) -> str:
    if "tensorflow" in variant:
        raise CannotWriteError("there is a script of Keras on JAX and on PyTorch, and none on TensorFlow yet")
    if variant not in ENGINES:
        raise CannotWriteError(f"there is no script for the variant {variant!r} of keras yet")
    return ENGINES[variant]


def imports(subject: Subject) -> list[str]:
    name = engine(subject.target.variant)
    return [
        "import os",
        "from functools import partial",
        "",
        f'os.environ["KERAS_BACKEND"] = "{name}"',
        f"import {name}",
        "import keras",
    ]


def made(subject: Subject) -> Made:
    if own_model.is_whole(subject):
        return own_model.made_of(subject)
    layer = own_layer.single(subject)
    if own_layer.is_own(subject):
        return own_layer.made_of(subject)
    return Made(builtin(layer), NAMES, ("dtype",), {"training": True})


def builtin(layer: Layer) -> str:
    """Keras's momentum is the weight of the old average."""
    given: dict[str, Any] = {} if layer.axis == -1 else {"axis": layer.axis}
    given |= {"momentum": 1.0 - layer.batch_weight} if layer.batch_weight is not None else {}
    given |= {"epsilon": layer.eps} if layer.eps is not None else {}
    given |= {} if layer.affine else {"center": False, "scale": False}
    return f"keras.layers.BatchNormalization({keywords({**given, **layer.native.get('keras', {})})})"


def definitions(subject: Subject) -> list[str]:
    found = made(subject)
    training = ", training=training" if found.flags or own_model.is_whole(subject) else ""
    whole = own_model.is_whole(subject)
    lines = own_model.source(subject, TAKEN) if whole else own_layer.source(subject, TAKEN)
    if engine(subject.target.variant) == "torch":
        return lines
    return [
        *lines,
        "back = jax.jit(lambda pull, dy: pull(dy))",
        "",
        "",
        "@partial(jax.jit, static_argnums=(0, 1))  # as in the run",
        "def recorded(training, back, values, fixed, x):",
        '    """(output, what goes back, the statistics that it leaves) of a forward; the layer itself stays."""',
        "",
        "    def forward(values, x):",
        *([f"        x = jax.numpy.moveaxis(x, {found.turned[0]}, {found.turned[1]})"] if found.turned else []),
        f"        y, moved = net.stateless_call(values, fixed, x{training})",
        *([f"        y = jax.numpy.moveaxis(y, {found.turned[1]}, {found.turned[0]})"] if found.turned else []),
        "        return y, moved",
        "",
        "    if back:",
        "        return jax.vjp(forward, values, x, has_aux=True)",
        "    y, moved = forward(values, x)",
        "    return y, None, moved",
        "",
        "",
    ]


def setup(subject: Subject, beside: dict[str, Array]) -> list[str]:
    if own_model.is_whole(subject):
        return whole(subject)
    found, lines = made(subject), fresh(subject)
    for what, value, before in own_layer.initial(subject, beside):
        if what in found.names:
            name = f"net.{found.names[what]}"
            lines += [*before, f"{name}.assign(np.reshape({value}, {name}.shape))"]
    return lines


def whole(subject: Subject) -> list[str]:
    """The user's model as the run made it: what is random is drawn by NumPy, the same on each engine."""
    found = made(subject)
    return [
        "",
        "",
        "def seeded(seed):",
        "    keras.utils.set_random_seed(seed)",
        f"    return {found.call}",
        "",
        "",
        "net, other = seeded(0), seeded(1)",
        "dice = np.random.default_rng(0)",
        "for mine, its in zip(net.weights, other.weights):  # what differs is random: NumPy draws it, for every engine",
        "    here, there = (np.array(keras.ops.convert_to_numpy(each)) for each in (mine, its))",
        '    if here.shape == there.shape and here.dtype.kind == "f" and not np.array_equal(here, there):',
        "        fan_in = max(1, int(np.prod(here.shape[:-1])))",
        "        mine.assign((dice.standard_normal(here.shape) / np.sqrt(fan_in)).astype(here.dtype))",
        f"{found.holder} = list(net._flatten_layers())[{own_model.number(subject)}]",
    ]


def fresh(subject: Subject) -> list[str]:
    found, layer = made(subject), own_layer.single(subject)
    more = ['dtype="float32"'] if "dtype" in found.quiet else []
    shape: list[int | None] = [None] * subject.rank
    shape[found.turned[1] if found.turned else layer.axis] = layer.channels
    return [f"net = {own_layer.with_more(found.call, more)}", f"net.build({tuple(shape)!r})", "net.built = True"]


def held(subject: Subject) -> dict[str, str]:
    found = made(subject)
    return {what: array(f"{found.holder}.{name}") for what, name in found.names.items() if what in own_layer.STATES}


def array(text: str) -> str:
    return f"np.array(keras.ops.convert_to_numpy({text}))"


def shown(subject: Subject, text: str) -> str:
    return f"{array(text)}{f'.reshape(-1)[::{subject.stride}]' if subject.stride > 1 else ''}"


def play(subject: Subject, step: Step, x: str, dys: list[str], when: str) -> list[str]:
    if step.op == "backward":
        return backward(subject, step, dys, when)
    if step.op == "reload" and not step.arguments and not own_model.is_whole(subject):
        return ["kept = net.get_weights()", *fresh(subject), "net.set_weights(kept)"]
    if not (op_of(step.op).runs == "network" and op_of(step.op).call and step.op != "forward"):
        return own_layer.refuse_events(step.op, "keras")
    training, records = step.op != "eval_forward", op_of(step.op).records
    if engine(subject.target.variant) == "torch":
        found = made(subject)
        flag = f", training={training}" if found.flags or own_model.is_whole(subject) else ""
        call = found.around("torch", f"net({{}}{flag})", "x")
        lines = [f"x = torch.tensor({x}, requires_grad={records})", f"y = {call}"]
        kept = "y"
    else:
        lines = [
            "values = [each.value for each in net.trainable_variables]",
            "fixed = [each.value for each in net.non_trainable_variables]",
            f"y, pull, moved = recorded({training}, {records}, values, fixed, jax.numpy.asarray({x}))",
            "for held, value in zip(net.non_trainable_variables, moved):",
            "    held.assign(value)",
        ]
        kept = "pull"
    if records:
        lines += [f"pulls = [{kept}]" if step.tape in ("first", "only", "") else f"pulls.append({kept})"]
    return lines + ([f'see("output", {when}, {shown(subject, "y")})'] if "output" in step.watched else [])


def backward(subject: Subject, step: Step, dys: list[str], when: str) -> list[str]:
    names, on_torch, holder = made(subject).names, engine(subject.target.variant) == "torch", made(subject).holder
    if on_torch:
        each = ", ".join(f"torch.tensor({dy})" if dy else "torch.ones_like(y)" for dy in dys)
        lines = [
            "values = [held.value for held in net.trainable_variables]",
            f"grads = torch.autograd.grad(pulls, [*values, x], [{each}], retain_graph=True, allow_unused=True)",
            "dx = grads[-1]",
        ]
    else:
        each = ", ".join(f"jax.numpy.asarray({dy})" if dy else "jax.numpy.ones_like(y)" for dy in dys)
        lines = [
            f"found_grads = [back(pull, dy) for pull, dy in zip(pulls, [{each}])]",
            "dx = found_grads[-1][1]",
        ]
    for name, what in (("grad_gamma", "gamma"), ("grad_beta", "beta")):
        if name in step.watched and what in names:
            place = f"next(k for k, each in enumerate(net.trainable_variables) if each is {holder}.{names[what]})"
            one = array(f"grads[{place}]") if on_torch else array(f"one[{place}]")
            value = one if on_torch else f'sum({one}.astype("float64") for one, _ in found_grads)'
            lines.append(f'see("{name}", {when}, {value})')
    if "grad_input" in step.watched:
        lines.append(f'see("grad_input", {when}, {shown(subject, "dx")})')
    return lines
