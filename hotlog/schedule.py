"""APScheduler gives each worker's tick a jittered beat.

Invariants: one tick of a worker at a time; a failing tick is counted and told, never ends the beat; a tick that has more to do is called again,
after everybody else had a turn of the loop, and after a pause once it was called many times in a row: the work is done however much it is.
"""

from __future__ import annotations

import asyncio
import itertools
import logging

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from hotlog.kernel.beats import Beat
from hotlog.kernel.errors import Fenced, NotReady, OutcomeUnknown, Retry, StoreUnavailable
from hotlog.kernel.metrics import Metrics

log = logging.getLogger("hotlog.schedule")
TICKS_IN_A_ROW_MAX = 64
PAUSE_S = 1.0  # after so many


class Schedule:
    """Runs beats until closed."""

    def __init__(self, beats: list[Beat], metrics: Metrics) -> None:
        self._metrics = metrics
        self._scheduler = AsyncIOScheduler(
            timezone="UTC", job_defaults={"max_instances": 1, "coalesce": True, "misfire_grace_time": None}
        )
        self._running: set[asyncio.Task[None]] = set()
        for beat in beats:
            trigger = IntervalTrigger(seconds=beat.interval_s, jitter=beat.interval_s * 0.2, timezone="UTC")
            self._scheduler.add_job(self._run, trigger, args=[beat], id=beat.name, name=beat.name)

    def start(self) -> None:
        self._scheduler.start()

    async def close(self) -> None:
        """No new ticks; those that run are cancelled and waited for.  No error if it was never started."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self, beat: Beat) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            for number in itertools.count(1):
                if not await beat.tick():
                    break
                await asyncio.sleep(PAUSE_S if number % TICKS_IN_A_ROW_MAX == 0 else 0)
            self._metrics.worker_ticks.labels(beat.name, "done").inc()
        except (StoreUnavailable, NotReady, OutcomeUnknown) as weather:
            self._metrics.worker_ticks.labels(beat.name, "retry").inc()
            log.debug("%s: %s", beat.name, weather)  # the store's health says it once, for all
        except (Retry, Fenced) as weather:
            self._metrics.worker_ticks.labels(beat.name, "retry").inc()
            log.warning("%s: %s", beat.name, weather)
        except asyncio.CancelledError:
            return  # by `close`; the scheduler would print it as a job that failed
        except Exception:
            self._metrics.worker_ticks.labels(beat.name, "failed").inc()
            log.exception("%s failed", beat.name)
        finally:
            self._running.discard(task)
