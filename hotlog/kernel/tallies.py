"""Counters and histograms of what happens at every request: plain numbers here, made samples when somebody scrapes.

prometheus_client's own take a lock and some calls for each step, which costs more than a twentieth of a small request.  Names, labels and samples
are the same.

Invariants: a number is changed on the event loop only, and may be read from any thread; a series that was removed counts for nobody any more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Cell = TypeVar("Cell")


class Tally:
    """One counter.  Who counts at every request adds to `value` itself."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        self.value += amount


class Spread:
    """One histogram: how many values lie at or below each bound and above the one before it; the last number is of those above all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value` that often."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class Series(Collector, Generic[Cell]):
    """The cells of one metric by their labels."""

    _type = ""

    def __init__(self, name: str, documentation: str, labelnames: Sequence[str], *, registry: CollectorRegistry) -> None:
        self._name, self._documentation, self._labelnames = name, documentation, tuple(labelnames)
        self._cells: dict[tuple[str, ...], Cell] = {}  # bounded by what is there: topics, APIs
        registry.register(self)

    def labels(self, *values: str) -> Cell:
        """The cell with these labels; who needs it often keeps it."""
        cell = self._cells.get(values)
        if cell is None:
            assert len(values) == len(self._labelnames), f"{self._name} has the labels {self._labelnames}"
            cell = self._cells[values] = self._new()
        return cell

    def remove(self, *values: str) -> None:
        """Raises KeyError."""
        del self._cells[values]

    def _new(self) -> Cell:
        raise NotImplementedError

    def collect(self) -> Iterator[Metric]:
        raise NotImplementedError


class Tallies(Series[Tally]):
    """A counter."""

    _type = "counter"

    def _new(self) -> Tally:
        return Tally()

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labelnames)
        for labels, tally in list(self._cells.items()):
            family.add_metric(labels, tally.value)
        yield family


class Spreads(Series[Spread]):
    """A histogram."""

    _type = "histogram"

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        *,
        registry: CollectorRegistry,
        buckets: Sequence[float],
    ) -> None:
        self._bounds = tuple(float(bound) for bound in buckets)
        super().__init__(name, documentation, labelnames, registry=registry)

    def _new(self) -> Spread:
        return Spread(self._bounds)

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)
        for labels, spread in list(self._cells.items()):
            bounds = map(floatToGoString, (*spread.bounds, float("inf")))
            family.add_metric(labels, list(zip(bounds, accumulate(spread.counts), strict=True)), spread.sum)
        yield family
