"""What a watched command's lives come to: findings, and an answer with a row per layer. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bncheck.diagnosis.alone import judge_lives
from bncheck.diagnosis.lived.innocence import innocence, own_ways
from bncheck.diagnosis.lived.written import how_often, jumps_of, written
from bncheck.finding import KINDS, Finding
from bncheck.gate.shortfall import Shortfall
from bncheck.life import LayerLife, Life
from bncheck.run_folder.answer import Answer, Row
from bncheck.run_folder.results import Results, TargetResult
from bncheck.subjects.conclusion import results_of, slug_of
from bncheck.subjects.launch import Ended

COLUMNS = ("kind", "forwards", "training", "eval", "n", "moved", "jumps")
MOST_NOTES = 50


def judged(
    lives: Sequence[Life], subject: str, command: str, created: str, stopped: str = ""
) -> tuple[Answer, Results]:
    """All rules over each life; ``stopped`` is why recording ended early."""
    findings = judge_lives(lives)
    answer = answer_of(lives, findings, subject, stopped)
    return answer, results_of(answer, findings, targets_of(lives), command, created)


def so_far(lives: Sequence[Life]) -> str:
    """`` · 53 layers · 1 hazard``: what is found in a program that still runs; "" before its first layer."""
    if not lives:
        return ""
    findings = judge_lives(lives)
    kinds = [(word(kind), sum(found.kind == kind for found in findings)) for kind in KINDS]
    said = [counted(max(len(life.layers) for life in lives), "layer")]
    said += [counted(number, name) for name, number in kinds if number]
    return "".join(f" · {each}" for each in said)


def answer_of(lives: Sequence[Life], findings: Sequence[Finding], subject: str, stopped: str = "") -> Answer:
    """The answer of a watch. ``findings`` are of all lives together; ``stopped`` is why recording ended early."""
    rows = tuple(row_of(life, layer, findings, len(lives) > 1) for life in lives for layer in life.layers)
    return Answer(
        verb="watch",
        subject=subject[:4000],
        headline=headline(lives, findings),
        columns=COLUMNS,
        rows=rows,
        notes=(*([f"Recording ended before the program did: {stopped}."] if stopped and lives else []), *notes(lives)),
    )


def targets_of(lives: Sequence[Life]) -> tuple[TargetResult, ...]:
    found: dict[str, list[Life]] = {}
    for life in lives:
        found.setdefault(life.framework or "recording", []).append(life)
    return tuple(target_of(name, group) for name, group in found.items())


def target_of(name: str, lives: Sequence[Life]) -> TargetResult:
    """A framework, as all processes that ran it say together."""
    devices = sorted({layer.device for life in lives for layer in life.layers if layer.device})
    pythons = sorted({life.python for life in lives if life.python})
    return TargetResult(
        name=name,
        slug=slug_of(name),
        backend=name,
        version=lives[-1].version,
        device=", ".join(devices),
        python=", ".join(pythons),
    )


def headline(lives: Sequence[Life], findings: Sequence[Finding]) -> str:
    if not lives:
        return "Nothing was recorded"
    layers = max(len(life.layers) for life in lives)
    steps = max(life.steps for life in lives)
    many = f" in {len(lives)} processes" if len(lives) > 1 else ""
    seen = f"{counted(layers, 'layer')}, {counted(steps, 'step')}{many}"
    if not findings:
        more = any(own_ways(life) or written(life) for life in lives)
        return f"{seen}: nothing wrong was seen{'; a note says what was not judged' if more else ''}"
    grave = [kind for kind in KINDS if any(found.kind == kind for found in findings)]
    said = ", ".join(counted(sum(found.kind == kind for found in findings), word(kind)) for kind in grave)
    return f"{seen}: {said}"


def word(kind: str) -> str:
    return {"unexplained": "unexplained observation", "rounding": "rounding remark"}.get(kind, kind)


def counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def row_of(life: Life, layer: LayerLife, findings: Sequence[Finding], many: bool) -> Row:
    name = f"{layer.name} @{life.rank if life.world > 1 else life.pid}" if many else layer.name
    spans = layer.spans
    training = sum(span.forwards for span in spans if span.training)
    low = min((span.n[0] for span in spans if span.n[0] >= 0), default=-1)
    high = max((span.n[1] for span in spans), default=-1)
    looked = [span.moved for span in spans if span.moved is not None]
    jumps = how_often(jumps_of(life, layer.name))
    size = "" if low < 0 else f"{low:,}" if low == high else f"{low:,} to {high:,}"
    marks = [found.kind for found in findings if layer.name in found.layer.split(", ")]
    mark = min(marks, key=KINDS.index, default="")
    cells = (
        layer.kind,
        f"{layer.forwards:,}",
        f"{training:,}",
        f"{layer.forwards - training:,}",
        size,
        f"{sum(looked):,}" if layer.tracks and looked else "–",
        f"{jumps:,}" if jumps else "",
    )
    return Row(layer=name[:1000], cells=cells, mark=mark)


def notes(lives: Sequence[Life]) -> list[str]:
    """What the recorder itself has to say, each sentence once."""
    found = dict.fromkeys(
        filter(None, (sentence(life) for life in lives for sentence in (written, innocence, own_ways)))
    )
    found |= dict.fromkeys(remark for life in lives for remark in life.remarks)
    left = sum(life.left_out for life in lives)
    if left:
        total = sum(life.forwards for life in lives)
        rest = "the others were recorded whole (--keep)" if left < total else "none was recorded whole (--keep)"
        found[f"{left:,} of {total:,} forwards were only counted; {rest}."] = None
    return list(found)[:MOST_NOTES]


def missed(lives: Sequence[Life], ended: Ended) -> tuple[Shortfall, ...]:
    """Why nothing was recorded, and what to do about it; () where something was."""
    if lives:
        return ()
    if ended.failed:
        return (
            Shortfall(
                f"Nothing was recorded: the recorder could not attach ({ended.failed})",
                "the program ran without it; report this with the version of the framework",
                "nothing was recorded",
            ),
        )
    if ended.stopped:
        return (
            Shortfall(
                f"Nothing was recorded: the recorder could not write ({ended.stopped})",
                "the program ran on without it; give --out a place with room",
                "nothing was recorded",
            ),
        )
    if ended.unseen:
        return (
            Shortfall(
                f"Nothing was recorded: {ended.unseen.partition('. ')[0].rstrip('.')}",
                ended.unseen.partition(". ")[2].rstrip(".") or "watch the command that trains or evaluates",
                "nothing was recorded",
            ),
        )
    if "python" not in ended.reached:
        return (
            Shortfall(
                "Nothing was recorded: the recorder reached no Python that the command started",
                "it comes by PYTHONPATH, which python -I and -E ignore and `env PYTHONPATH=…` replaces: leave them out",
                "nothing was recorded",
            ),
        )
    if ended.reached == ("python",):
        return (
            Shortfall(
                "Nothing was recorded: the command imported no framework that bncheck watches (PyTorch, Keras, Flax, "
                "Paddle, MXNet)",
                "look at what the command itself said" if ended.code else "watch the command that trains or evaluates",
                "nothing was recorded",
            ),
        )
    return (
        Shortfall(
            "Nothing was recorded: no layer that normalises by running statistics was seen to run",
            "nothing is to be done if the model has none; what torch.jit.trace or jax.jit compiled is not seen, nor a "
            "model that calls torch.nn.functional.batch_norm itself (put nn.BatchNorm in its place), nor, "
            "outside PyTorch, a layer of your own: bncheck check FILE.py:CLASS judges it",
            "nothing was recorded",
        ),
    )
