"""What goes wrong on purpose: one list of rows, each with a `kind` (README.md lists them)."""

from __future__ import annotations

import itertools
import re
from fnmatch import fnmatchcase
from typing import Any

#: kind: (fields it must have, fields it may have)
FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "capacity": (set(), {"type", "zone", "market", "available", "error"}),
    "quota": ({"market"}, {"family", "vcpus", "instances"}),
    "throttle": ({"action", "rate", "burst"}, set()),
    "lag": ({"seconds"}, set()),
    "price": ({"type", "price"}, {"zone", "market", "at"}),
    "call": ({"action"}, {"when", "code", "message", "delay", "times"}),
    "node": (set(), {"no_join", "no_gpu", "slow_boot_seconds", "keep_volume", "type", "zone", "market", "times"}),
}


def matches(row: dict[str, Any], **actual: str) -> bool:
    """Whether the row is about this type, zone and market; absent is any, and wildcards are allowed."""
    return all(fnmatchcase(value, str(row.get(key) or "*")) for key, value in actual.items())


class Faults:
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._ids = itertools.count(1)
        self._buckets: dict[tuple[int, str], tuple[float, float]] = {}

    def clear(self) -> None:
        self.rows, self._buckets = [], {}

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Checks a row and keeps it. Raises ValueError that says what is wrong with it."""
        kind = row.get("kind")
        if kind not in FIELDS:
            raise ValueError(f"kind must be one of {', '.join(FIELDS)}, not {kind!r}")
        must, may = FIELDS[kind]
        given = set(row) - {"kind", "id"}
        if must - given or given - must - may:
            raise ValueError(f"a {kind} row needs {sorted(must)} and may have {sorted(may)}; it has {sorted(given)}")
        if row.get("market") not in (None, "*", "spot", "on-demand"):
            raise ValueError(f"market must be spot or on-demand, not {row['market']!r}")
        if kind == "quota" and not given & {"vcpus", "instances"}:
            raise ValueError("a quota row needs vcpus or instances")
        if kind == "call":
            re.compile(row["action"])
            if row.get("when", "before") not in ("before", "after"):
                raise ValueError(f"when must be before or after, not {row['when']!r}")
            row = {"times": 1, "when": "before", **row}
        kept = {"id": next(self._ids), **row}
        self.rows.append(kept)
        return kept

    def remove(self, row_id: int) -> bool:
        before = len(self.rows)
        self.rows = [r for r in self.rows if r["id"] != row_id]
        return len(self.rows) < before

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [r for r in self.rows if r["kind"] == kind]

    def _use(self, row: dict[str, Any]) -> bool:
        """Counts a row with `times` down; spent rows stay in the list to be seen, at 0."""
        if row.get("times") is None:
            return True
        row["times"] -= 1
        return row["times"] >= 0

    def lag(self) -> float:
        rows = self.of("lag")
        return float(rows[-1]["seconds"]) if rows else 0.0

    def call(self, action: str, when: str) -> dict[str, Any] | None:
        for row in self.of("call"):
            if row["when"] == when and row["times"] > 0 and re.fullmatch(row["action"], action):
                self._use(row)
                return row
        return None

    def throttled(self, action: str, now: float) -> bool:
        """Takes a token. Each action has its own bucket, as on EC2, even under a row for `*`."""
        rows = [r for r in self.of("throttle") if r["action"] == action] or [r for r in self.of("throttle") if r["action"] == "*"]
        if not rows:
            return False
        rule = rows[-1]
        level, last = self._buckets.get((rule["id"], action), (rule["burst"], now))
        level = min(rule["burst"], level + (now - last) * rule["rate"])
        self._buckets[rule["id"], action] = (level - 1, now) if level >= 1 else (level, now)
        return level < 1

    def node(self, itype: str, zone: str, market: str) -> dict[str, Any]:
        """The node faults of one launch: every row that fits, taken together."""
        found = {"no_join": False, "no_gpu": False, "slow_boot_seconds": 0, "keep_volume": False}
        for row in self.of("node"):
            if matches(row, type=itype, zone=zone, market=market) and self._use(row):
                found["no_join"] |= bool(row.get("no_join"))
                found["no_gpu"] |= bool(row.get("no_gpu"))
                found["keep_volume"] |= bool(row.get("keep_volume"))
                found["slow_boot_seconds"] = max(found["slow_boot_seconds"], row.get("slow_boot_seconds", 0))
        return found
