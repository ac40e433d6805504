"""What /ready answers: whether clients are served, and what is wrong though they are.

Invariants: pure; a reason is one line for people; `refusing` closes the door of a load balancer (503), `degraded` does not (200).
"""

from __future__ import annotations

from typing import NamedTuple


class Health(NamedTuple):
    """`refusing`: why clients are not served, or not all of them.  `degraded`: what is wrong though they are.  Both empty: all is well."""

    refusing: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()

    @property
    def status(self) -> int:
        """HTTP status of /ready."""
        return 503 if self.refusing else 200

    @property
    def text(self) -> str:
        """`ready`, `degraded` or `not ready`, then a line for each reason."""
        word = "not ready" if self.refusing else "degraded" if self.degraded else "ready"
        return "".join(f"{line}\n" for line in (word, *self.refusing, *self.degraded))


STARTING = Health(refusing=("starting",))
