"""The parts of the writer of PyTorch scripts (``scripts/torch.py``), one file per concept."""
