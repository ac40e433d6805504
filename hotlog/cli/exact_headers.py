"""Headers of consumed messages, also where their names are not UTF-8.

librdkafka's Python binding decodes names strictly and gives nothing of such a record's headers.  Those records are fetched once more, as the
bytes that they are; a name then holds what is not UTF-8 by surrogateescape, as hotlog.wire.records says.

Invariants: what other clients can produce is shown; only a message whose headers the binding refuses costs a request (one a batch).
"""

from __future__ import annotations

from operator import methodcaller
from typing import Any

from hotlog.cli.tail import BrokerTail
from hotlog.kernel.errors import Retry
from hotlog.wire.batch import walk
from hotlog.wire.records import decode_batch

# The binding returns a list although it has set an exception.  A call by bytecode may not notice; one from C always does (SystemError).
_headers = methodcaller("headers")
Headers = list[tuple[str, bytes | None]]


class ExactHeaders:
    """Callable: a message's headers.  Raises Retry or Corrupt where the record cannot be read again."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._where: tuple[str, int] = "", -1
        self._found: dict[int, Headers] = {}  # of the last batch

    def __call__(self, message: Any) -> Headers:
        try:
            return _headers(message) or []
        except (SystemError, UnicodeError):
            return self._stored(message.topic(), message.partition(), message.offset())

    def _stored(self, topic: str, partition: int, offset: int) -> Headers:
        if self._where != (topic, partition) or offset not in self._found:
            self._where, self._found = (topic, partition), self._fetch(topic, partition, offset)
        if offset not in self._found:
            raise Retry(f"offset {offset} of {topic}-{partition} cannot be read again for its headers")
        return self._found[offset]

    def _fetch(self, topic: str, partition: int, offset: int) -> dict[int, Headers]:
        data = BrokerTail(self._bootstrap, topic, partition, offset, offset + 1).fetch(offset)
        for position, header in walk(data or b""):
            if header.last_offset >= offset:
                records = decode_batch(bytes(data[position : position + header.size]))  # type: ignore[index]
                return {record.offset: list(record.headers) for record in records}
        return {}
