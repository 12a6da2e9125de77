"""What it would have cost: per second from running to shutting-down, 60 s at least, storage and traffic left out.

A spot instance that AWS takes within its first hour is free. The spot price at the start of each instance hour holds for
that hour; the real rule for prices that move within the hour is not published.
"""

from __future__ import annotations

from typing import Any

from .state import LAB, Record


def seconds(record: Record, until: float) -> float:
    """Billed seconds up to a moment of lab time."""
    if record.running is None or until <= record.running:
        return 0.0
    return max(60.0, min(record.ended or until, until) - record.running)


def free(record: Record) -> bool:
    return (record.reclaimed and record.running is not None and record.ended is not None
            and record.ended - record.running < 3600)


def cost(record: Record, until: float) -> float:
    """Dollars up to a moment of lab time."""
    if free(record) or record.running is None:
        return 0.0
    billed, total, t = seconds(record, until), 0.0, 0.0
    while t < billed:
        span = min(3600.0, billed - t)
        total += span / 3600 * LAB.price(record.instance.instance_type, record.zone, record.market, record.running + t)
        t += span
    return total


def bill() -> dict[str, Any]:
    """All of it, the part since midnight UTC, and a row for each instance."""
    now = LAB.now()
    midnight = now - now % 86400
    rows, today, rate = [], 0.0, 0.0
    for iid, r in LAB.records.items():
        amount = cost(r, now)
        today += amount - cost(r, midnight)
        if r.instance.state == "running":
            rate += LAB.price(r.instance.instance_type, r.zone, r.market)
        rows.append({"id": iid, "type": r.instance.instance_type, "zone": r.zone, "market": r.market, "state": r.instance.state,
                     "start": r.running, "end": r.ended, "seconds": round(seconds(r, now), 3), "free": free(r),
                     "cost": round(amount, 6), "name": r.tags().get("Name")})
    return {"total": round(sum(x["cost"] for x in rows), 6), "today": round(today, 6), "running_per_hour": round(rate, 6),
            "instances": rows}
