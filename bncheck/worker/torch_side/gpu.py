"""What decides which kernels PyTorch takes on an NVIDIA GPU, and how many digits they compute with.

Loaded by backends/torch.py and keras.py by path. Python 3.7 syntax.
"""

import os


def flags(torch):
    """For the environment of a target: cuDNN's version and switches, and whether float32 means TF32 (10 bits)."""
    cudnn = torch.backends.cudnn
    return {
        "CUDA": torch.version.cuda or "",
        "cudnn": cudnn.version(),
        "cudnn_enabled": cudnn.enabled,
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
        "tf32_convolutions": tf32(cudnn, "conv"),
        "tf32_matmul": tf32(getattr(getattr(torch.backends, "cuda", None), "matmul", None), ""),
        "NVIDIA_TF32_OVERRIDE": os.environ.get("NVIDIA_TF32_OVERRIDE", "default"),
    }


def tf32(holder, operator):
    """True, False, or the precision's own name. Since 2.9 there are two settings of it, and torch refuses to answer by
    the older one once a program has used the newer."""
    try:
        return bool(getattr(holder, "allow_tf32", False))
    except RuntimeError:
        return str((getattr(holder, operator) if operator else holder).fp32_precision)
