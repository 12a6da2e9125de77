"""Lab time: the wall clock plus an offset, so that an hour of billing is tested in no time."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Clock:
    """Now, and things to do later. Times are unix seconds of lab time."""

    def __init__(self) -> None:
        self._offset = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="lab-clock", daemon=True).start()

    def now(self) -> float:
        return time.time() + self._offset

    def advance(self, seconds: float) -> None:
        """Moves lab time forward; what falls due on the way is done at once, in order."""
        with self._changed:
            self._offset += seconds
            self._changed.notify()

    def at(self, when: float, what: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._due, (when, next(self._order), what))
            self._changed.notify()

    def clear(self) -> None:
        with self._changed:
            self._offset, self._due = 0.0, []
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > self.now():
                    self._changed.wait(self._due[0][0] - self.now() if self._due else None)
                what = heapq.heappop(self._due)[2]
            # Not under the condition: what is due takes the lab's lock, whose holders call `at`.
            try:
                what()
            except Exception as error:  # one broken timer must not stop the clock
                print(f"ec2: timer: {error!r}", flush=True)
