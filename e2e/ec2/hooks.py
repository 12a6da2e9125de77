"""What an event starts: the hook command, or, without one, instances that run and end by themselves."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import threading
from collections import deque
from typing import Any

from .state import LAB

TIMEOUT = 600  # seconds; a boot that hangs must not keep its instance from being ended


class SelfBoot:
    """No hook: `boot_seconds` to running, `end_seconds` to terminated. Enough for tests of API clients."""

    def __call__(self, event: dict[str, Any]) -> None:
        wait = LAB.config["boot_seconds"] + event["faults"]["slow_boot_seconds"] if event["event"] == "boot" else LAB.config["end_seconds"]
        state = "running" if event["event"] == "boot" else "terminated"
        LAB.clock.at(LAB.now() + wait, lambda: reach(event["id"], state))


def reach(instance_id: str, state: str) -> None:
    with LAB.lock, contextlib.suppress(KeyError):  # forgotten meanwhile
        LAB.set_state(instance_id, state)


class Command:
    """`PATH instance boot|end ID`, the event on stdin: in order and one at a time for each instance, in the background."""

    def __init__(self, path: str, state_dir: pathlib.Path) -> None:
        self.path, self.logs = path, state_dir / "hooks"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._waiting: dict[str, deque[dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def __call__(self, event: dict[str, Any]) -> None:
        with self._lock:
            if event["id"] in self._waiting:  # a thread is at work on this instance
                self._waiting[event["id"]].append(event)
                return
            self._waiting[event["id"]] = deque([event])
        threading.Thread(target=self._work, args=(event["id"],), name=f"hook-{event['id']}", daemon=True).start()

    def _work(self, instance_id: str) -> None:
        while True:
            with self._lock:
                if not self._waiting[instance_id]:
                    del self._waiting[instance_id]
                    return
                event = self._waiting[instance_id].popleft()
            if self._run(event) and event["event"] == "end":
                reach(instance_id, "terminated")

    def _run(self, event: dict[str, Any]) -> bool:
        argv = [self.path, "instance", event["event"], event["id"]]
        with (self.logs / f"{event['id']}.log").open("ab") as log:
            log.write(f"--- {' '.join(argv)}\n".encode())
            log.flush()
            try:
                # A session of its own: Ctrl-C at the lab must not reach what the hook has booted.
                done = subprocess.run(argv, input=json.dumps(event).encode(), stdout=log, stderr=log, timeout=TIMEOUT, check=False,
                                      start_new_session=True)
                outcome = f"exit {done.returncode}"
                ok = done.returncode == 0
            except (OSError, subprocess.TimeoutExpired) as error:
                outcome, ok = repr(error), False
            log.write(f"--- {event['event']}: {outcome}\n".encode())
        if not ok:
            print(f"ec2: hook {event['event']} {event['id']}: {outcome}; see {self.logs}/{event['id']}.log", flush=True)
        return ok
