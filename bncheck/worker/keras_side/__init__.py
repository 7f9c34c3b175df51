"""Parts of the Keras backend, loaded by path (backends/keras.py)."""
