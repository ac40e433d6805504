"""(API key, version) to kio's request and response structures, and bytes to and from them.

Structures come from kio (generated from Kafka's own message definitions); the native reader only ever sees bodies that hotlog.wire.bounds
has walked.  Produce requests and Fetch responses have readers of their own (produce, fetch_request, fetch_reply), because kio copies records.

Invariants: whatever bytes come in, decoding ends in a structure or in Invalid; `make` refuses a field no version of the structure has.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import sys
import types
import typing
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from kio.index import load_request_schema, load_response_schema
from kio.schema.errors import ErrorCode
from kio.schema.index import api_key_map, schema_name_map
from kio.serial import entity_reader, entity_writer
from kio.serial.errors import SerialError
from kio.static.constants import EntityType

from hotlog.kernel.errors import Invalid
from hotlog.wire.bounds import Step, step_for, varint, walked

API_VERSIONS_KEY = 18

_REQUEST_HEAD = struct.Struct(">hhih")  # API key, version, correlation id, length of client id
_RESPONSE_HEAD = struct.Struct(">ii")  # size, correlation id


class RequestHeader(NamedTuple):
    """Request header v1 or v2 (v0 has no client id and belongs to no API served here)."""

    api_key: int
    version: int
    correlation_id: int
    client_id: str | None


def parse_header(frame: memoryview) -> tuple[RequestHeader, int]:
    """The header without its tagged fields, and the position after the client id.

    Raises:
        Invalid: cut off, or a client id that is not UTF-8.
    """
    try:
        key, version, correlation_id, size = _REQUEST_HEAD.unpack_from(frame)
    except struct.error:
        raise Invalid(f"request of {len(frame)} bytes is too short for a header of {_REQUEST_HEAD.size}") from None
    end = _REQUEST_HEAD.size + max(size, 0)
    if size < -1 or end > len(frame):
        raise Invalid(f"client id says {size} bytes; {len(frame) - _REQUEST_HEAD.size} are left")
    try:
        client_id = str(frame[_REQUEST_HEAD.size : end], "utf-8") if size >= 0 else None
    except UnicodeDecodeError:
        raise Invalid("client id is not UTF-8") from None
    return RequestHeader(key, version, correlation_id, client_id), end


def skip_tags(frame: memoryview, position: int) -> int:
    """Position after a section of tagged fields nobody here knows (request header v2).

    Raises:
        Invalid: cut off.
    """
    end = len(frame)
    count, position = varint(frame, position, end)
    for _ in range(count):
        _, position = varint(frame, position, end)
        size, position = varint(frame, position, end)
        position += size
        if position > end:
            raise Invalid(f"tagged field of {size} bytes runs over the end of the request")
    return position


@cache
def versions_known(key: int) -> range:
    """Versions of API `key` that kio knows; empty if it does not know the API."""
    name = api_key_map.get(key)
    if name is None:
        return range(0)
    numbers = [version for version, kinds in schema_name_map[name].items() if EntityType.request in kinds]
    return range(min(numbers), max(numbers) + 1)


@cache
def request_type(key: int, version: int) -> type[Any]:
    """kio's request class."""
    kind: type[Any] = load_request_schema(key, version)
    return kind


@cache
def response_type(key: int, version: int) -> type[Any]:
    """kio's response class."""
    return load_response_schema(key, version)


@cache
def is_flexible(key: int, version: int) -> bool:
    """Whether this version has compact fields and tags (KIP-482); its request header is then v2, else v1."""
    return bool(request_type(key, version).__flexible__)


@cache
def has_flexible_response_header(key: int, version: int) -> bool:
    """Response header v1 (with tags).  ApiVersions always answers with v0, so that any client can read it (KIP-511)."""
    return key != API_VERSIONS_KEY and is_flexible(key, version)


@cache
def _request_reader(key: int, version: int) -> tuple[Step, Any]:
    kind = request_type(key, version)
    return step_for(kind), entity_reader(kind)


def decode_request(key: int, version: int, frame: memoryview, position: int) -> Any:
    """The request body that starts at `position` (after the whole header) as a kio entity.

    Raises:
        Invalid: malformed, for whatever reason.
    """
    walk, read = _request_reader(key, version)
    frame, position = walked(walk, frame, position)
    try:
        return read(frame.toreadonly(), position)[0]
    except (SerialError, ValueError, OverflowError, TypeError) as error:
        raise Invalid(f"request of API {key} version {version} is malformed: {error}") from None


def encode_request(correlation_id: int, client_id: str, request: Any) -> bytes:
    """A kio request entity as a whole frame, size first; its API and version are its own."""
    name, body = client_id.encode(), encoded(request)
    head = _REQUEST_HEAD.pack(request.__api_key__, request.__version__, correlation_id, len(name)) + name
    if request.__flexible__:
        head += b"\0"
    return b"".join((struct.pack(">i", len(head) + len(body)), head, body))


def response_body(key: int, version: int, frame: memoryview) -> int:
    """Where the body of a response frame begins.

    Raises:
        Invalid: its header is cut off.
    """
    return skip_tags(frame, 4) if has_flexible_response_header(key, version) else 4


@cache
def _response_reader(key: int, version: int) -> tuple[Step, Any]:
    kind = response_type(key, version)
    return step_for(kind), entity_reader(kind)


def decode_response(key: int, version: int, frame: memoryview) -> Any:
    """The body of a response frame (that begins with its correlation id) as a kio entity.

    Raises:
        Invalid: malformed, for whatever reason.
    """
    walk, read = _response_reader(key, version)
    try:
        frame, position = walked(walk, frame, response_body(key, version, frame))
        return read(frame.toreadonly(), position)[0]
    except (Invalid, SerialError, ValueError, OverflowError, TypeError) as error:
        raise Invalid(f"response of API {key} version {version} is malformed: {error}") from None


def response_head(key: int, version: int, correlation_id: int, body_bytes: int) -> bytes:
    """Size, correlation id and, where the header is flexible, an empty tag section."""
    if has_flexible_response_header(key, version):
        return _RESPONSE_HEAD.pack(body_bytes + 5, correlation_id) + b"\0"
    return _RESPONSE_HEAD.pack(body_bytes + 4, correlation_id)


def encode_response(key: int, version: int, correlation_id: int, response: Any) -> bytes:
    """A kio response entity as a whole frame, size first."""
    body = encoded(response)
    return response_head(key, version, correlation_id, len(body)) + body


def encoded(entity: Any) -> bytes:
    """A kio entity as bytes."""
    with io.BytesIO() as buffer:
        entity_writer(type(entity))(buffer, entity)
        return buffer.getvalue()


def empty_response(key: int, version: int, *, error_code: ErrorCode) -> Any | None:
    """A response that holds only its top-level error code; None for a response that has no such field."""
    kind = response_type(key, version)
    fields: dict[str, Any] = {}
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name == "error_code":
            fields[field.name] = error_code
        elif field.default is dataclasses.MISSING:
            fields[field.name] = zero(field, hints[field.name])
    return kind(**fields) if "error_code" in fields else None


def zero(field: dataclasses.Field[Any], hint: Any) -> Any:
    """The value of `field` that says nothing; `hint` is its type."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return None
    if typing.get_origin(hint) is tuple:
        return ()
    kind = field.metadata.get("kafka_type", "")
    if kind.startswith("timedelta"):
        return timedelta(0)
    return {"string": "", "bytes": b"", "records": b"", "bool": False, "error_code": ErrorCode.none}.get(kind, 0)


class Shapes:
    """The structures of one API version, by name; each takes every field of any version and drops what this version lacks.

    `responses(3, version).MetadataResponseTopic(name=..., topic_id=...)` builds the topic of that version of Metadata.
    """

    def __init__(self, key: int, version: int, module: str) -> None:
        self._key = key
        self._version = version
        self._module = sys.modules[module]

    def __getattr__(self, name: str) -> Any:
        kind = getattr(self._module, name, None)
        if kind is None or not dataclasses.is_dataclass(kind):
            raise AttributeError(f"{self._module.__name__} has no structure {name}")
        known = frozenset(field.name for field in dataclasses.fields(kind))
        elsewhere = _fields_ever(self._key, self._module.__name__.rpartition(".")[2], name)

        def build(**fields: Any) -> Any:
            if known.issuperset(fields):
                return kind(**fields)  # type: ignore[operator]
            strange = fields.keys() - elsewhere
            assert not strange, f"{name} has no field {sorted(strange)} in any version"
            return kind(**{field: value for field, value in fields.items() if field in known})  # type: ignore[operator]

        build.__name__ = name
        setattr(self, name, build)
        return build

    def has(self, name: str) -> bool:
        """Whether this version has the structure `name`."""
        return hasattr(self._module, name)


@cache
def _fields_ever(key: int, side: str, name: str) -> frozenset[str]:
    """Fields that a structure has in any version."""
    load = request_type if side == "request" else response_type
    found: set[str] = set()
    for version in versions_known(key):
        kind = getattr(sys.modules[load(key, version).__module__], name, None)
        if kind is not None:
            found.update(field.name for field in dataclasses.fields(kind))
    return frozenset(found)


@cache
def responses(key: int, version: int) -> Shapes:
    """Response structures of one API version."""
    return Shapes(key, version, response_type(key, version).__module__)


@cache
def requests(key: int, version: int) -> Shapes:
    """Request structures of one API version (for clients and tests)."""
    return Shapes(key, version, request_type(key, version).__module__)
