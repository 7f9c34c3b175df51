"""``python -m bncheck``."""

from bncheck.cli import main

main()
