"""Parts of the writer of ONNX Runtime scripts (``scripts/onnxruntime.py``)."""
