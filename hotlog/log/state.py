"""What one log is: the state that its parts (writer, syncer, reader, those that cut and replace) share.

Invariants: made once with the log; what is in it changes, which objects it is does not.
"""

from __future__ import annotations

from typing import NamedTuple

from hotlog.kernel.ids import TopicPartition
from hotlog.log.epochs import LeaderEpochs
from hotlog.log.marks import Marks
from hotlog.log.producers import Producers
from hotlog.log.segments import Segments


class LogState(NamedTuple):
    """One log."""

    tp: TopicPartition
    directory: str
    segments: Segments
    marks: Marks
    epochs: LeaderEpochs
    producers: Producers
