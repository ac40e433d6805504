"""Apache Kafka from Maven Central: its jars, its storage formatter, its segment dump tool.

The server itself is started by `kafka_server.py`.

Invariants:
- Jars are fetched once into the developer's cache, by Maven, from a pom written here; nothing is committed.
- Without Java 17 or Maven the answer is ToolMissing with the reason, never a silent None.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tools.cache import ToolMissing, built_folder, digest, require_program, run_patiently
from tests.tools.patience import PATIENCE_S

KAFKA_VERSION = "4.3.0"
SCALA_VERSION = "2.13"
LOG4J_SLF4J_VERSION = "2.25.4"
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>hotlog.dev</groupId><artifactId>kafka-jars</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>{dependencies}
  </dependencies>
</project>
"""
_DEPENDENCY = """
    <dependency><groupId>{0}</groupId><artifactId>{1}</artifactId><version>{2}</version></dependency>"""
_LOG4J = """status = warn
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c: %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""


@dataclass(frozen=True, kw_only=True)
class KafkaJars:
    """The jars of one Kafka version, with a log4j2.properties that prints warnings to stderr."""

    java: str
    version: str
    folder: Path

    @property
    def classpath(self) -> str:
        """What `java -cp` takes: the folder of configuration, then all jars."""
        return f"{self.folder}:{self.folder}/jars/*"

    def command(self, main_class: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        """The argv that runs `main_class` on these jars; `options` go to the JVM."""
        return [self.java, *options, "-cp", self.classpath, main_class, *arguments]

    def run(self, main_class: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of Kafka's command line tools to its end, with stdout and stderr as text."""
        options = ("-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
        return subprocess.run(
            self.command(main_class, *arguments, options=options),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            stdin=subprocess.DEVNULL,
        )


def kafka_jars(version: str = KAFKA_VERSION) -> KafkaJars:
    """Kafka's server, tools and clients with all runtime dependencies. Raises ToolMissing with the reason."""
    java = require_program("java", why="Apache Kafka 4.x needs Java 17 or newer")
    _check_java(java)
    wanted = (
        ("org.apache.kafka", f"kafka_{SCALA_VERSION}", version),
        ("org.apache.kafka", "kafka-tools", version),
        ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J_SLF4J_VERSION),
    )
    pom = _pom(*wanted)

    def fetch(folder: Path) -> None:
        (folder / "log4j2.properties").write_text(_LOG4J)
        _copy_jars(folder, pom)

    return KafkaJars(java=java, version=version, folder=built_folder(f"kafka-{version}-{digest(pom, _LOG4J)}", fetch))


def more_jars(artifact: str, jars: Sequence[str], version: str = KAFKA_VERSION) -> Path:
    """A folder whose `jars` has those of a Kafka artifact that are not among `kafka_jars`. Raises ToolMissing."""
    pom = _pom(("org.apache.kafka", artifact, version))
    return built_folder(f"{artifact}-{version}-{digest(pom, *jars)}", lambda folder: _copy_jars(folder, pom, only=jars))


def _pom(*wanted: tuple[str, str, str]) -> str:
    return _POM.format(dependencies="".join(_DEPENDENCY.format(*each) for each in wanted))


def _copy_jars(folder: Path, pom: str, only: Sequence[str] = ()) -> None:
    """Fetch what the pom depends on, or the artifacts `only` of that, into `jars`."""
    maven = require_program("mvn", why="Maven fetches Apache Kafka's jars")
    (folder / "pom.xml").write_text(pom)
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=jars"]
    chosen = [f"-DincludeArtifactIds={','.join(only)}"] if only else []
    run_patiently([maven, "-q", "-B", *goal, *chosen], folder=folder)


def _check_java(java: str) -> None:
    said = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    digits = said.partition('version "')[2].split(".")[0].strip('"')
    if not digits.isdigit() or int(digits) < 17:
        raise ToolMissing(f"{java} is too old for Apache Kafka 4.x, which needs 17: {said.strip()[:120]}")


_FIRST_OFFSET = re.compile(r"Non-consecutive offsets in \S*?(\d{20})\.log\n  -1 is followed by (\d+)\n(?!  \d)")


@dataclass(frozen=True, kw_only=True)
class SegmentDump:
    """What Kafka's DumpLogSegments said of some files, and whether it was content."""

    text: str
    exit_code: int

    @property
    def complaints(self) -> list[str]:
        """Lines in which the tool names something wrong; empty for clean files.

        DumpLogSegments exits with 0 even when it finds mismatches, so its words are what counts
        (org.apache.kafka.tools.DumpLogSegments). One of its lines is not one: with deep iteration it says of every
        segment that does not begin at offset 0, Kafka's own included, that "-1 is followed by" its base offset.
        """
        text = _FIRST_OFFSET.sub(lambda found: "" if int(found[1]) == int(found[2]) else found[0], self.text)
        bad = (
            "isvalid: false",
            "mismatch",
            "non-consecutive",
            "out of order",
            "exception",
            "corrupt",
            "error",
            "found timestamp",
            "indexed offset",
            "is followed by",
            "invalid",
            "trailing",
        )
        return [line for line in text.splitlines() if any(word in line.lower() for word in bad)]


def dump_segments(jars: KafkaJars, files: Sequence[Path], *options: str) -> SegmentDump:
    """Run Kafka's DumpLogSegments over .log, .index, .timeindex, .txnindex, .snapshot or checkpoint files.

    Useful options: `--deep-iteration`, `--print-data-log`, `--index-sanity-check`, `--verify-index-only`.
    An index is compared with the .log beside it.
    """
    joined = ",".join(str(file) for file in files)
    done = jars.run("org.apache.kafka.tools.DumpLogSegments", "--files", joined, *options)
    return SegmentDump(text=done.stdout + done.stderr, exit_code=done.returncode)
