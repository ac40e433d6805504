"""Python runs this at the start of a process whose path has this folder: hypothesis cannot be imported there."""

import sys

sys.modules["hypothesis"] = None  # type: ignore[assignment]
