"""Parts of backends/onnxruntime.py and of the reference on files, each loaded by its path; Python 3.7 syntax."""
