"""argv to the command line; the exit code back."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def main() -> None:
    """Console script."""
    from hotlog.cli.app import Terminated
    from hotlog.cli.app import main as run

    def stop(number: int, frame: object) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)  # a second one ends it whatever it is at
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    sys.exit(run())


if __name__ == "__main__":
    main()
