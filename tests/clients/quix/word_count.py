"""The word count of quixstreams, exactly once: `word_count.py JSON`, until it is ended.

Arguments are the ones of tests/tools/applications.py: lines of words in, for each word its count so far out, as text.  Runs in an environment
of its own, where nothing of Hotlog is.
"""

import json
import sys

from quixstreams import Application, State

WANTED = json.loads(sys.argv[1])


def count(word: str, state: State) -> str:
    seen = state.get("seen", 0) + 1
    state.set("seen", seen)
    return str(seen)


def main() -> None:
    application = Application(
        broker_address=WANTED["bootstrap"],
        consumer_group=WANTED["group"],
        auto_offset_reset="earliest",
        state_dir=WANTED["state"],
        processing_guarantee="exactly-once",
        commit_interval=0.1,
        consumer_poll_timeout=0.1,
        consumer_extra_config={"session.timeout.ms": WANTED["session_ms"]},
        producer_extra_config={"transaction.timeout.ms": WANTED["transaction_ms"]},
    )
    texts = dict.fromkeys(("key_serializer", "value_serializer", "key_deserializer", "value_deserializer"), "str")
    lines = application.dataframe(application.topic(WANTED["source"], **texts))
    words = lines.apply(str.split, expand=True).group_by(lambda word: word, name="word", **texts)
    words.apply(count, stateful=True).to_topic(application.topic(WANTED["sink"], **texts))
    application.run()


if __name__ == "__main__":
    main()
