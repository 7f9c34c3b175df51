"""What the backends on JAX share, loaded by its path; Python 3.7 syntax."""
