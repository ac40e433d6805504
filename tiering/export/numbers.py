"""Decimal numbers and the binary ones that say them.  Pure.

Invariants: a float that comes out of here says its text: exactly, or as the shortest decimal that means it (0.1 is said by the double 0.1).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from decimal import Decimal

_DOUBLE_DIGITS, _FLOAT_DIGITS = 15, 6  # DBL_DIG, FLT_DIG: any decimal of so many digits survives


class Real(str):
    """A number with a fraction or an exponent, as it was spelled."""

    __slots__ = ()


def double_of(text: str) -> float | None:
    """The double that says a decimal number; None if there is none."""
    return _exact(text, float(text), repr, _DOUBLE_DIGITS)


def float_of(text: str) -> float | None:
    """The same with 32 bits."""
    try:
        number = struct.unpack("f", struct.pack("f", float(text)))[0]
    except OverflowError:
        return None
    return _exact(text, number, _shortest_float, _FLOAT_DIGITS)


def _exact(text: str, number: float, shortest: Callable[[float], str], digits_safe: int) -> float | None:
    if len(text) <= digits_safe and "e" not in text and "E" not in text:
        return number
    if number - number != 0:  # infinite
        return None
    try:
        wanted = Decimal(text)
    except ArithmeticError:
        return None
    return number if wanted in (Decimal(shortest(number)), Decimal(number)) else None


def _shortest_float(number: float) -> str:
    for digits in range(_FLOAT_DIGITS, 10):
        text = f"{number:.{digits}g}"
        if struct.pack("f", float(text)) == struct.pack("f", number):
            return text
    return repr(number)
