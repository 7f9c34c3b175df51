"""Parts of backends/reference.py, each loaded by its path; Python 3.7 syntax."""
