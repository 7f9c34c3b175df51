"""Parts of the MXNet backend for layers and models of the user's, loaded by path (backends/mxnet.py)."""
