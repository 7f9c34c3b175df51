"""Parts of the Paddle backend, loaded by path (backends/paddle.py)."""
