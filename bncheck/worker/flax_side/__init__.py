"""Parts of the Flax backend for layers and models of the user's, loaded by path (backends/flax.py)."""
