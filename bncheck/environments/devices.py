"""What this machine has: cores, memory, and which devices it shows by cheap signs.

Whether a device works is for the framework to say, in its own process. A target on a device that shows no sign is
unavailable at once: without this, gigabytes of GPU packages would be installed first, to learn the same.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DEV = Path("/dev")


@dataclass(frozen=True)
class Sign:
    """How a kind of device shows, what to say where it does not, and what makes it show in a container."""

    shows: Callable[[Path], bool]
    reason: str
    container: str = ""


def nvidia(dev: Path = DEV) -> bool:
    """/dev/nvidia0 (driver loaded), /dev/nvhost-gpu (Jetson), /dev/dxg (WSL), or the driver's own tool."""
    signs = (*dev.glob("nvidia[0-9]*"), *dev.glob("nvhost-gpu"), *dev.glob("dxg"))
    return bool(signs) or shutil.which("nvidia-smi") is not None


def amd(dev: Path = DEV) -> bool:
    return (dev / "kfd").exists()


def intel(dev: Path = DEV) -> bool:
    return any((dev / "dri").glob("renderD*"))


def tpu(dev: Path = DEV) -> bool:
    return any(dev.glob("accel*")) or any((dev / "vfio").glob("[0-9]*"))


def apple(dev: Path = DEV) -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


NO_MAC = "this machine is no Mac with Apple silicon"
SIGNS = {
    # A ROCm build of torch calls its device cuda.
    "cuda": Sign(
        lambda dev: nvidia(dev) or amd(dev),
        "this machine shows no NVIDIA GPU (no /dev/nvidia0, no nvidia-smi)",
        "docker run --gpus all",
    ),
    "rocm": Sign(amd, "this machine shows no AMD GPU (no /dev/kfd)", "docker run --device /dev/kfd --device /dev/dri"),
    "xpu": Sign(intel, "this machine shows no Intel GPU (no /dev/dri/renderD*)", "docker run --device /dev/dri"),
    "tpu": Sign(tpu, "this machine shows no TPU (no /dev/accel0, nothing in /dev/vfio)", "docker run --privileged"),
    "mps": Sign(apple, NO_MAC),
    "metal": Sign(apple, NO_MAC),
}


def why_not(device: str, dev: Path = DEV) -> tuple[str, str] | None:
    """(reason, remedy) where this machine shows no such device; None where it does, or nobody can tell."""
    sign = SIGNS.get(device.partition(":")[0])
    if sign is None or sign.shows(dev):
        return None
    inside = f" (in a container: {sign.container})" if sign.container else ""
    return sign.reason, f"run it on a machine that has one{inside}, then join the runs: bncheck compare RUN RUN"


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def physical_memory() -> int | None:
    """Bytes of memory of this machine: what a worker on the CPU may take, so that it cannot take the machine down."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def threads(at_once: int) -> dict[str, str]:
    """Threads of one worker, so that all of them together fit the cores; what the user has set stays.

    Without it every small kernel waits for a thread that another worker holds: torch.batch_norm on 6 × 3 values took
    42 ms instead of 20 µs on a busy machine with two cores. The count is part of the recorded environment.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    count = str(max(1, cores() // max(at_once, 1)))
    return {} if any(name in os.environ for name in names) else dict.fromkeys(names, count)
