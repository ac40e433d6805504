"""How long a test waits for what should happen at once, before it says that it never will.

Invariants: a test that passes never waits for it; a thing that cannot come is given up within a minute, unless HOTLOG_PATIENCE_S says
that the machine is busy with other things (CI says so, since nobody waits for it).
"""

from __future__ import annotations

import os

PATIENCE_S = float(os.environ.get("HOTLOG_PATIENCE_S", "60"))
SOON_S = 50.0  # the same for what happens within this process
PATIENT_STORE = {
    "hotlog.store.attempt.timeout.ms": str(int(SOON_S * 1000)),
    "hotlog.store.total.timeout.ms": str(int(SOON_S * 1000)),
}
