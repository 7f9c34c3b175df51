"""How a variant of PyTorch runs the network of a script: as it is, compiled, scripted, exported, recomputed, …"""

from __future__ import annotations

import re

from bncheck.repro.standalone.subject import CannotWriteError, Subject

# In these, another function than the network itself is called.
CALLED = ("channels_last", "compile", "export", "trace", "checkpoint")
PLAIN = ("", "builtin", "timed", "functional", "onnx", "plain_input", "no_onednn", "jit", "ddp", "ddp_local")


def since(subject: Subject, major: int, minor: int) -> bool:
    """Whether the target's PyTorch is at least this version; a version that cannot be read is a new one."""
    found = re.match(r"(\d{1,3})\.(\d{1,3})", subject.target.version)
    return not found or (int(found[1]), int(found[2])) >= (major, minor)


def recomputing(subject: Subject) -> str:
    """Keywords of checkpoint(): before 1.11 there is only the re-entrant kind, without the keyword."""
    return ", use_reentrant=False" if since(subject, 1, 11) else ""


def check(subject: Subject) -> None:
    variant = subject.target.variant
    if variant not in (*CALLED, *PLAIN):
        raise CannotWriteError(f"there is no script for the variant {variant!r} of torch yet")


def runs(subject: Subject) -> str:
    """The name of what is called on a batch."""
    return "run" if subject.target.variant in CALLED else "net"


def imports(subject: Subject) -> list[str]:
    more = {
        "no_onednn": ["import torch.backends.mkldnn", "", "torch.backends.mkldnn.set_flags(False)"],
        "export": ["import torch.export"],
        "checkpoint": ["import torch.utils.checkpoint"],
    }
    return more.get(subject.target.variant, [])


def running(subject: Subject) -> list[str]:
    """The definition of ``run``, where the variant has one."""
    variant = subject.target.variant
    if variant == "channels_last":
        last = "torch.channels_last_3d" if subject.rank == 5 else "torch.channels_last"
        return [
            f"net.to(memory_format={last})",
            f"run = lambda x: net(x.contiguous(memory_format={last}))  # noqa: E731",
        ]
    if variant == "compile":
        return ["run = torch.compile(net, dynamic=False)"]
    if variant == "export":
        return EXPORTED
    if variant == "trace":
        return TRACED
    recomputed = [line.replace(", use_reentrant=False", recomputing(subject)) for line in RECOMPUTED]
    return recomputed if variant == "checkpoint" else []


EXPORTED = [
    "programs = {}",
    "",
    "",
    "def run(x):",
    '    """The network as an exported program: one per mode and shape, sharing its parameters and buffers."""',
    "    key = tuple(module.training for module in net.modules()), x.shape",
    "    if key not in programs:",
    "        programs[key] = torch.export.export(net, (x.detach(),)).module()",
    "    return programs[key](x)",
    "",
    "",
]
TRACED = [
    "programs = {}",
    "",
    "",
    "def run(x):",
    '    """The network traced, once per mode and shape; what the tracing itself moves is put back."""',
    "    key = tuple(module.training for module in net.modules()), x.shape",
    "    if key not in programs:",
    "        held = [(m, name, b) for m in net.modules() for name, b in m._buffers.items() if b is not None]",
    "        kept = [buffer.clone() for _, _, buffer in held]",
    "        programs[key] = torch.jit.trace(net, x.detach(), check_trace=False)",
    "        with torch.no_grad():",
    "            for (module, name, buffer), value in zip(held, kept):",
    "                module._buffers[name] = buffer.copy_(value)",
    "    return programs[key](x)",
    "",
    "",
]
RECOMPUTED = [
    "",
    "",
    "def run(x):",
    '    """Training forwards keep no activations and run a second time in backward."""',
    "    if net.training and torch.is_grad_enabled():",
    "        return torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)",
    "    return net(x)",
    "",
    "",
]
