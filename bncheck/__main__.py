"""``bncheck`` and ``python -m bncheck``."""

from bncheck.commands.signals import end_at_once


def main() -> None:
    """The console's entry point. Signals come first: what it imports takes a second."""
    end_at_once()
    from bncheck.cli import main as answer

    answer()


if __name__ == "__main__":  # a spawned process imports this file again
    main()
