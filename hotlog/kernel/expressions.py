"""Regular expressions that clients send: those of RE2, which take time that is linear in what they are asked about."""

from __future__ import annotations

from typing import Any, Protocol

import re2

from hotlog.kernel.errors import Invalid


class Expression(Protocol):
    """One that can be matched."""

    def fullmatch(self, text: str) -> Any: ...


def compiled(regex: str) -> Expression:
    """The expression.

    Raises:
        Invalid: it is none, with RE2's reason.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        found: Expression = re2.compile(regex, options)
    except re2.error as problem:
        raise Invalid(problem.args[0].decode("utf-8", "replace") if problem.args else "it cannot be compiled") from None
    return found
