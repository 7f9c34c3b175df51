"""What plays one thing of the user's in the user's own interpreter; files are loaded by path, see run.py."""
