"""Layers of the user's own in any framework but PyTorch: what making and judging them has in common."""
