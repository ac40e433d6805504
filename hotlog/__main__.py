"""argv to the command line; the exit code back."""

from __future__ import annotations

import sys


def main() -> None:
    """Console script."""
    from hotlog.cli.app import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
