"""What a configuration key is: name, type, default, range, text.  The reference page and DescribeConfigs are printed from these.

Invariants: a key is parsed by its definition and nowhere else; a refused value is named with what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from hotlog.kernel.errors import InvalidConfig

Value = int | float | bool | str | tuple[str, ...]
Kind = Literal["boolean", "string", "int", "short", "long", "double", "list", "class", "password"]

LONG_MAX = 2**63 - 1
INT_MAX = 2**31 - 1
_BOUNDS = {"int": (-(2**31), INT_MAX), "short": (-(2**15), 2**15 - 1), "long": (-(2**63), LONG_MAX)}

# The codes of DescribeConfigs (ConfigDef.Type in Kafka's protocol: ConfigType.id()).
KIND_CODES: dict[str, int] = {
    "boolean": 1, "string": 2, "int": 3, "short": 4, "long": 5, "double": 6, "list": 7, "class": 8, "password": 9,
}  # fmt: skip
KIND_UNKNOWN = 0


@dataclass(frozen=True, kw_only=True)
class ConfigKey:
    """One key.  `minimum`/`maximum` bound numbers, `also` is allowed outside of them; `choices` bounds strings and list elements,
    `pattern` the whole of a string or list; `unit` is for the docs.

    `acts` is False for a key that is accepted and told, but changes nothing (yet).  `is_open`: unset it has no value of its own (Kafka's
    default is null), what holds then comes from elsewhere.
    """

    name: str
    kind: Kind
    default: Value | None
    doc: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    also: int | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    pattern_words: str = ""
    dynamic: bool = True
    acts: bool = True
    is_open: bool = False
    synonym: str = ""  # for a topic key: the broker key that gives its default

    def with_default(self, text: str) -> ConfigKey:
        """The same key with a default given as text."""
        return replace(self, default=self.parse(text))

    def parse(self, text: str | None) -> Value:
        """Parse a value as Kafka does (trimmed text).

        Raises:
            InvalidConfig: naming key, value and what is allowed.
        """
        if text is None:
            raise InvalidConfig(f"{self.name} has no value; expected {self.allowed}")
        try:
            if self.kind in ("int", "short", "long", "double") and ("_" in text or not text.isascii()):
                raise ValueError  # Python reads 1_000 and other scripts' digits as numbers, Kafka does not
            value = self._convert(text.strip())
        except ValueError:
            raise InvalidConfig(f"{self.name}={text!r} is not valid; expected {self.allowed}") from None
        self._check(value, text)
        return value

    def _convert(self, text: str) -> Value:
        match self.kind:
            case "boolean":
                lowered = text.lower()
                if lowered not in ("true", "false"):
                    raise ValueError
                return lowered == "true"
            case "int" | "short" | "long":
                low, high = _BOUNDS[self.kind]
                number = int(text)
                if not low <= number <= high:
                    raise ValueError
                return number
            case "double":
                return float(text)
            case "list":
                return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
            case _:
                return text

    def _check(self, value: Value, text: str) -> None:
        bad = False
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            bad = (self.minimum is not None and value < self.minimum) or (self.maximum is not None and value > self.maximum)
            bad = (bad and value != self.also) or value != value
        elif self.choices:
            bad = any(part not in self.choices for part in (value if isinstance(value, tuple) else (value,)))
        elif self.pattern:
            bad = re.fullmatch(self.pattern, self.text(value) or "") is None
        if bad:
            raise InvalidConfig(f"{self.name}={text!r} is not allowed; expected {self.allowed}")

    @property
    def allowed(self) -> str:
        """What a value must be, in words."""
        words = {"boolean": "true or false", "list": "a comma-separated list"}.get(self.kind, f"a {self.kind}")
        if self.choices:
            words = ("a list of " if self.kind == "list" else "one of ") + ", ".join(self.choices)
        words = self.pattern_words or words
        if self.minimum is not None:
            words += f" >= {self.minimum:g}" if abs(self.minimum) < 1e15 else ""
        if self.maximum is not None:
            words += f" <= {self.maximum:g}"
        if self.also is not None:
            words += f" or {self.also}"
        return words + (f" ({self.unit})" if self.unit else "")

    def text(self, value: Value | None) -> str | None:
        """The value as clients see it."""
        if value is None:
            return None
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, tuple):
            return ",".join(value)
        return _double_text(value) if isinstance(value, float) else str(value)


def _double_text(value: float) -> str:
    """As Java prints a double."""
    text = repr(value)
    if value == 0 or 1e-3 <= abs(value) < 1e7 or "n" in text:  # nan, inf
        return text
    sign, digits, _ = Decimal(text).as_tuple()
    kept = "".join(map(str, digits)).rstrip("0")
    return f"{'-' * sign}{kept[0]}.{kept[1:] or '0'}E{Decimal(text).adjusted()}"


def table(keys: Iterable[ConfigKey]) -> dict[str, ConfigKey]:
    """Keys by name; a name given twice is a bug."""
    result: dict[str, ConfigKey] = {}
    for key in keys:
        assert key.name not in result, f"{key.name} is defined twice"
        result[key.name] = key
    return result


def parse_all(definitions: Mapping[str, ConfigKey], given: Mapping[str, str | None]) -> dict[str, Value]:
    """Parse `given`; unknown keys are refused.

    Raises:
        InvalidConfig: naming the first bad key.
    """
    result: dict[str, Value] = {}
    for name, text in given.items():
        definition = definitions.get(name)
        if definition is None:
            raise InvalidConfig(f"unknown configuration {name!r}")
        result[name] = definition.parse(text)
    return result
