"""Starting JAX and finding its device, for the backends that run on it.

Loaded by backends/flax.py, haiku.py and keras.py by path. Python 3.7 syntax.
"""

import os
import sys

SEVERAL = "--xla_force_host_platform_device_count"


def describe(jax, device):
    """What the environment of a target on JAX says besides its version."""
    unit = find_device(jax, device)
    found = {
        "jax": jax.__version__,
        "unit": str(unit),
        "matmul_precision": str(jax.config.jax_default_matmul_precision or "default"),
    }
    if not on_cpu(device):
        found.update(gpu=unit.device_kind, **flags())
    return found


def flags():
    """What is set from outside of the kernels that XLA takes on a GPU; float32 products are TF32 there by default."""
    names = (("XLA_FLAGS", ""), ("NVIDIA_TF32_OVERRIDE", "default"))
    return {name: os.environ.get(name, usual) for name, usual in names}


def keep_compiled():
    """Let JAX keep what it compiles beside itself, where bncheck made this environment: same bits, half the time.

    A cell is many small programs and little arithmetic; compiling them was 5 of 9 seconds of the default run."""
    if os.path.exists(os.path.join(sys.prefix, "bncheck-env.json")):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(sys.prefix, "jax-cache"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def on_cpu(device):
    return device.partition(":")[0] == "cpu"


def import_jax(device, replicas=1):
    """Import JAX so that a CPU target never touches a GPU, and a GPU target does not reserve all of its memory.

    JAX makes as many devices of one CPU as it is told before it starts: what several accelerators do can be tried on
    them, with the same collectives."""
    if on_cpu(device):
        os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    keep_compiled()
    wanted = max(replicas, int(device.partition(":")[2] or 0) + 1)
    if on_cpu(device) and wanted > 1 and SEVERAL not in os.environ.get("XLA_FLAGS", ""):
        # Read when the first device is asked for; the setting of jax.config that does the same is not in JAX 0.4.
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), "%s=%d" % (SEVERAL, wanted)]).strip()
    import jax

    return jax


def find_device(jax, device):
    kind, _, number = device.partition(":")
    try:
        found = jax.devices(kind)
    except RuntimeError as error:
        raise RuntimeError("jax sees no %s device: %s" % (kind, str(error).splitlines()[0]))
    if int(number or 0) >= len(found):
        raise RuntimeError("jax sees %d %s devices, and number %s was asked for" % (len(found), kind, number))
    return found[int(number or 0)]
