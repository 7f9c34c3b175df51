"""Straight Flax nnx: one module, the user's or nnx.BatchNorm, or a model of the user's; gradients by jax.vjp over its
parts."""

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

NAMES = {"running_mean": "mean", "running_var": "var", "gamma": "scale", "beta": "bias"}
TAKEN = (
    "jax",
    "nnx",
    "recorded",
    "back",
    "partial",
    "graph",
    "params",
    "rest",
    "moved",
    "pull",
    "pulls",
    "grads",
    "dx",
    "kept",
    "found_grads",
    "named",
    "of",
)
MORE = {"rngs": "nnx.Rngs(0)", "dtype": '"float32"', "param_dtype": '"float32"'}


def requirements(target: TargetResult) -> list[str]:
    return [f"flax=={target.version}" if VERSION.fullmatch(target.version) else "flax"]


def imports(subject: Subject) -> list[str]:
    if subject.target.variant not in ("", "builtin", "plain_input"):
        raise CannotWriteError(f"there is no script for the variant {subject.target.variant!r} of flax yet")
    return ["from functools import partial", "", "import jax", "from flax import nnx"]


def made(subject: Subject) -> Made:
    if own_model.is_whole(subject):
        return own_model.made_of(subject)
    layer = own_layer.single(subject)
    return own_layer.made_of(subject) if own_layer.is_own(subject) else Made(builtin(layer), NAMES, ("rngs",))


def builtin(layer: Layer) -> str:
    """Flax's momentum is the weight of the old average."""
    given: dict[str, Any] = {} if layer.axis == -1 else {"axis": layer.axis}
    given |= {"momentum": 1.0 - layer.batch_weight} if layer.batch_weight is not None else {}
    given |= {"epsilon": layer.eps} if layer.eps is not None else {}
    given |= {} if layer.affine else {"use_bias": False, "use_scale": False}
    return f"nnx.BatchNorm({layer.channels}, {keywords({**given, **layer.native.get('flax', {})})})"


def definitions(subject: Subject) -> list[str]:
    found = made(subject)
    flags = found.flags or {}
    word, value = next(iter(flags.items()), ("", True))
    more = f", {word}={'' if value else 'not '}training" if word else ""
    whole = own_model.is_whole(subject)
    return [
        *(own_model.source(subject, TAKEN) if whole else own_layer.source(subject, TAKEN)),
        f"back = {'lambda pull, dy: pull(dy)' if found.eager else 'jax.jit(lambda pull, dy: pull(dy))'}  # noqa: E731",
        "",
        "",
        *([] if found.eager else ["@partial(jax.jit, static_argnums=(0, 1, 2))  # as in the run"]),
        "def recorded(graph, training, back, params, rest, x):",
        '    """(output, what goes back, the statistics that it leaves) of a forward; the module itself stays."""',
        "",
        "    def forward(params, x):",
        "        module = nnx.merge(graph, params, rest, copy=True)",
        f"        y = {found.around('jax.numpy', f'module({{}}{more})', 'x')}",
        "        return y, nnx.split(module, nnx.Param, ...)[2]",
        "",
        "    if back:",
        "        return jax.vjp(forward, params, x, has_aux=True)"
        if own_layer.asks_the_input(subject)
        else "        return jax.vjp(lambda held: forward(held, x), params, has_aux=True)",
        "    y, moved = forward(params, x)",
        "    return y, None, moved",
        "",
        "",
    ]


def setup(subject: Subject, beside: dict[str, Array]) -> list[str]:
    found = made(subject)
    if own_model.is_whole(subject):
        return [
            f"net = {found.call}",
            'named = {".".join(map(str, path)): each for path, each in nnx.iter_modules(net)}',
            f"{found.holder} = named[{own_model.place(subject)!r}]",
            "",
            "",
            "def of(grads, held):",
            '    """The gradient of one of the model\'s variables, by the place where it lies."""',
            "    for key in next(path for path, each in nnx.iter_graph(net) if each is held):",
            "        grads = grads[key]",
            "    return np.asarray(grads[...], dtype='float64')",
            "",
        ]
    lines = [f"net = {fresh(found)}"]
    for what, value, before in own_layer.initial(subject, beside):
        if what in found.names:
            held_ = f"net.{found.names[what]}"
            lines += [*before, f"{held_}[...] = jax.numpy.asarray({value}).reshape({held_}.shape)"]
    return lines


def fresh(found: Made) -> str:
    return own_layer.with_more(found.call, [f"{word}={MORE[word]}" for word in found.quiet if word in MORE])


def held(subject: Subject) -> dict[str, str]:
    found = made(subject)
    held = f"np.asarray({found.holder}.{{}}[...])"
    return {what: held.format(name) for what, name in found.names.items() if what in own_layer.STATES}


def shown(subject: Subject, text: str) -> str:
    return f"np.asarray({text}){f'.reshape(-1)[::{subject.stride}]' if subject.stride > 1 else ''}"


def play(subject: Subject, step: Step, x: str, dys: list[str], when: str) -> list[str]:
    if step.op == "backward":
        return backward(subject, step, dys, when)
    if op_of(step.op).runs == "network" and op_of(step.op).call and step.op != "forward":
        training = step.op != "eval_forward"
        attributes = "use_running_average={0}, deterministic={0}, training={1}, is_training={1}"
        records = op_of(step.op).records
        lines = [
            f"net.set_attributes(raise_if_not_found=False, {attributes.format(not training, training)})",
            "graph, params, rest = nnx.split(net, nnx.Param, ...)",
            f"y, pull, moved = recorded(graph, {training}, {records}, params, rest, jax.numpy.asarray({x}))",
            "nnx.update(net, moved)",
        ]
        if records:
            lines += ["pulls = [pull]" if step.tape in ("first", "only", "") else "pulls.append(pull)"]
        return lines + ([f'see("output", {when}, {shown(subject, "y")})'] if "output" in step.watched else [])
    if step.op == "reload" and not step.arguments and not own_model.is_whole(subject):
        return ["kept = nnx.state(net)", f"net = {fresh(made(subject))}", "nnx.update(net, kept)"]
    return own_layer.refuse_events(step.op, "flax")


def summed(name: str) -> str:
    return f'sum(np.asarray(one["{name}"][...], dtype="float64") for one, *_ in found_grads)'


def backward(subject: Subject, step: Step, dys: list[str], when: str) -> list[str]:
    ones = "jax.numpy.ones_like(y)"
    each = ", ".join(f"jax.numpy.asarray({dy})" if dy else ones for dy in dys)
    lines = [
        f"found_grads = [back(pull, dy) for pull, dy in zip(pulls, [{each}])]",
        *(["dx = found_grads[-1][1]"] if own_layer.asks_the_input(subject) else []),
    ]
    names = made(subject).names
    for name, what in (("grad_gamma", "gamma"), ("grad_beta", "beta")):
        if name in step.watched and what in names:
            one = f"sum(of(one, {own_model.LAYER}.{names[what]}) for one, *_ in found_grads)"
            value = one if own_model.is_whole(subject) else summed(names[what])
            lines.append(f'see("{name}", {when}, {value})')
    if "grad_input" in step.watched:
        lines.append(f'see("grad_input", {when}, {shown(subject, "dx")})')
    return lines
