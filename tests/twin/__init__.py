"""The twin test: what is asked of Hotlog is asked of a real Apache Kafka too, and the answers are compared field by field.

How to add a story, say of a new API:

1. Write an async function into a file of `stories/` (any file there is found), and say which APIs it is about:

       @story(Key.DELETE_RECORDS)
       async def records_before_an_offset_go(at: Side) -> None:
           await at.topic("t", partitions=2)                                    # asked until it is there; not compared
           await at.produce("t", batch(b"a", b"b", b"c"))                       # not compared either
           await at.ask(Key.DELETE_RECORDS, "past the end", topics=[dict(name=at.name("t"), partitions=[dict(partition_index=0, offset=9)])])

   It is told once for each version of that API that both brokers speak, each time with names of its own (`at.name`), and on both brokers at
   the same time.  With several APIs in one story all go down together, from each one's newest version to its oldest.
2. Run `pytest tests/twin -k records_before`, or `python -m tests.twin records_before` to see all differences, also those that are allowed.
3. What differs is mended in Hotlog, or gets a row in `differences.py` with the reason.  A row that no story needs any more fails.

`at.ask` builds the request from plain words (fields of structures that this version lacks are left out), and its answer is compared.  Each question
of a story has words of its own, by which the two answers find each other.  What comes back differently by nature (ids, ports, times, texts)
is translated in `translation.py`; `compare.py` walks the answers.

Invariants: both brokers have the same settings (`brokers.SETTINGS`) and are asked the same in the same order; an API or version that both speak
and no story is about fails tests/house.
"""
