"""What plays a model that lies in a file: a file per format, found by its place; playing.py is the protocol."""
