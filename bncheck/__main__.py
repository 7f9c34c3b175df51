"""``bncheck`` and ``python -m bncheck``. Signals come first: what is imported after them takes a second."""

import os

try:
    from bncheck.commands.signals import end_at_once
except KeyboardInterrupt:  # until then Ctrl-C is Python's
    os.write(2, b"bncheck: interrupted\n")
    os._exit(130)


def main() -> None:
    """The console's entry point."""
    end_at_once()
    from bncheck.cli import main as answer

    answer()


if __name__ == "__main__":  # a spawned process imports this file again
    main()
