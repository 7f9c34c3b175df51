"""One file per command; ``<name>_command`` in it is the click command."""
