"""The entry point of a verb's process: ``lumos``, or ``python -m lumos`` as torchrun starts it."""

import sys

from lumos import compute


def main() -> int:
    """Set the process up, then run its verb; returns the exit code."""
    compute.set_up()
    from lumos.cli import main as run  # numpy, and later torch, read what was set

    return run()


if __name__ == "__main__":
    sys.exit(main())
