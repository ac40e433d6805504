"""Fetch (1): hot log from its local start up, cold tier below it, long poll.

Versions 4 to 18 (topic ids from 13).  KIP-227 sessions, KIP-74 limits, KIP-320 leader epochs, KIP-392 and follower fetch not yet (one
replica).  For a fetch that the page cache can answer no asyncio task is made.

Invariants: an answer waits at most max wait, or remote.fetch.max.wait.ms if longer and only cold data is missing; an error of one
partition is that partition's alone.
"""

from __future__ import annotations

from hotlog.answers.api import Api
from hotlog.apis.fetch.general_way import handle
from hotlog.apis.fetch.replies import refuse
from hotlog.apis.fetch.short_way import short
from hotlog.wire.fetch_request import VERSIONS, decode

API = Api(
    key=1,
    name="Fetch",
    versions=VERSIONS,
    handle=handle,
    decode=decode,
    refuse=refuse,
    short=short,
    ends_with_connection=True,
    omits=("follower fetch", "preferred read replica", "diverging epoch"),
)
