"""What a connection begins with: ApiVersions, frames that nobody can read, and where coordinators and brokers are."""

from __future__ import annotations

import struct

from tests.twin.keys import KAFKA, Key
from tests.twin.telling import Side, story


@story(Key.API_VERSIONS)
async def what_is_served(at: Side) -> None:
    answer = await at.ask(Key.API_VERSIONS, client_software_name="twin", client_software_version="1.0")
    if at.broker == "kafka":
        told = {Key(api.api_key): range(api.min_version, api.max_version + 1) for api in answer.api_keys}
        other = {key: (told.get(key), KAFKA.get(key)) for key in told.keys() | KAFKA.keys() if told.get(key) != KAFKA.get(key)}
        assert other == {}, "tests/twin/keys.py says what Kafka serves"


@story(Key.API_VERSIONS)
async def clients_say_who_they_are(at: Side) -> None:
    for name, version in (
        ("", "1"),
        ("twin", ""),
        ("-twin", "1"),
        ("a b", "1"),
        ("twin", "1.0-beta.2"),
        ("twin", "é"),
        ("a" * 200, "1"),
    ):
        await at.ask(
            Key.API_VERSIONS,
            f"name {name[:9]!r}, version {version!r}",
            client_software_name=name,
            client_software_version=version,
        )


@story(Key.API_VERSIONS, once=True)
async def what_nobody_speaks(at: Side) -> None:
    await at.ask(Key.API_VERSIONS, "what everybody speaks", client_software_name="twin", client_software_version="1.0")
    no_tags = b"\0"
    for version in (5, 99, 32_767):
        await at.ask_bytes(Key.API_VERSIONS, version, f"ApiVersions {version}", no_tags + b"\x05twin\x021\0")
    await at.ask_bytes(Key.API_VERSIONS, -1, "ApiVersions -1", b"")
    await at.ask_bytes(Key.API_VERSIONS, 3, "ApiVersions without a body", no_tags)
    for key, version in ((Key.PRODUCE, 2), (Key.PRODUCE, 14), (Key.FETCH, 3), (Key.METADATA, 14), (Key.CREATE_TOPICS, -1)):
        await at.ask_bytes(key, version, f"{key.word} {version}", b"\0\0\0\0")
    for number in (4, 7, 93, 999, -1):
        await at.ask_bytes(number, 0, f"API {number}", b"\0\0\0\0")
    await at.ask_bytes(Key.METADATA, 1, "a topic list that is cut off", struct.pack(">i", 3))
    await at.ask_bytes(Key.METADATA, 1, "a list of minus two topics", struct.pack(">i", -2))
    await at.ask_bytes(Key.METADATA, 1, "a name that is no text", struct.pack(">ih2s", 1, 2, b"\xff\xfe"))


@story(Key.FIND_COORDINATOR)
async def where_coordinators_are(at: Side) -> None:
    for kind in (0, 1):
        words = [at.name("a"), at.name("b")]
        await at.until(
            lambda answer: {found.error_code.name for found in answer.coordinators} == {"none"},
            Key.FIND_COORDINATOR, key_type=kind, coordinator_keys=words,
        )  # fmt: skip
        await at.ask(Key.FIND_COORDINATOR, f"type {kind}", key=words[0], key_type=kind, coordinator_keys=words)
        await at.ask(Key.FIND_COORDINATOR, f"type {kind}, no name", key="", key_type=kind, coordinator_keys=[""])
    await at.ask(Key.FIND_COORDINATOR, "none at all", key="", key_type=0, coordinator_keys=[])
    await at.ask(Key.FIND_COORDINATOR, "twice the same", key=at.name("a"), key_type=0, coordinator_keys=[at.name("a")] * 2)
    if at.version(Key.FIND_COORDINATOR) > 0:
        for kind in (2, 3, -1):
            await at.ask(Key.FIND_COORDINATOR, f"type {kind}", key=at.name("a"), key_type=kind, coordinator_keys=[at.name("a")])


@story(Key.DESCRIBE_CLUSTER)
async def the_cluster(at: Side) -> None:
    await at.ask(Key.DESCRIBE_CLUSTER, "brokers", include_cluster_authorized_operations=False)
    await at.ask(Key.DESCRIBE_CLUSTER, "what may be done with it", include_cluster_authorized_operations=True)
    if at.version(Key.DESCRIBE_CLUSTER) > 0:
        for kind in (2, 0, 3, -1):
            await at.ask(Key.DESCRIBE_CLUSTER, f"endpoints of type {kind}", endpoint_type=kind)
    if at.version(Key.DESCRIBE_CLUSTER) > 1:
        await at.ask(Key.DESCRIBE_CLUSTER, "fenced brokers too", include_fenced_brokers=True)


@story(Key.INIT_PRODUCER_ID)
async def ids_of_producers(at: Side) -> None:
    timeout = 60_000
    first = await at.ask(Key.INIT_PRODUCER_ID, "new", transactional_id=None, transaction_timeout=timeout)
    assert first.producer_id >= 0
    await at.ask(Key.INIT_PRODUCER_ID, "another", transactional_id=None, transaction_timeout=timeout)
    await at.ask(Key.INIT_PRODUCER_ID, "without a timeout", transactional_id=None, transaction_timeout=0)
    for epoch in (0, 5, -1):
        await at.ask(
            Key.INIT_PRODUCER_ID, f"again with epoch {epoch}", transactional_id=None, transaction_timeout=timeout,
            producer_id=first.producer_id, producer_epoch=epoch,
        )  # fmt: skip
    await at.ask(Key.INIT_PRODUCER_ID, "an epoch without an id", transactional_id=None, producer_id=-1, producer_epoch=3)
    await at.ask(Key.INIT_PRODUCER_ID, "a transactional id that is empty", transactional_id="", transaction_timeout=timeout)
