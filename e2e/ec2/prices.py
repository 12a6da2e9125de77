"""Prices: on-demand and spot from aws_gpu_prices.csv; spot moves by zone when told to.

Unlike EC2, every zone starts with the one spot price of the table (us-east-2's), and nothing moves by itself.
"""

from __future__ import annotations

import csv
import datetime
import pathlib
import time
from typing import Any

from . import instance_types

TABLE = pathlib.Path(__file__).with_name("aws_gpu_prices.csv")


def read_table() -> dict[str, dict[str, str]]:
    """The rows of the table by type; its first lines say where the figures come from."""
    with TABLE.open() as f:
        return {r["instance_type"]: r for r in csv.DictReader(line for line in f if not line.startswith("#"))}


def utc(t: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(t, datetime.timezone.utc)


class Prices:
    def __init__(self) -> None:
        self.table = read_table()
        self.reset()

    def reset(self) -> None:
        """Back to the table. Its spot prices count as set a day before, so that history has no hole."""
        self.on_demand = {t: float(r["on_demand_us_east_1"]) for t, r in self.table.items() if r["on_demand_us_east_1"]}
        self.points: dict[tuple[str, str], list[tuple[float, float]]] = {}
        since = time.time() - 86400
        for itype, row in self.table.items():
            for zone in instance_types.zones(itype) if row["spot_us_east_2"] else ():
                self.points[itype, zone] = [(since, float(row["spot_us_east_2"]))]

    def set(self, rows: list[dict[str, Any]], now: float) -> None:
        """Rows as POST /_lab/prices has them; `zone` may be `*`."""
        for row in rows:
            itype, price = row["type"], float(row["price"])
            if row.get("market", "spot") == "on-demand":
                self.on_demand[itype] = price
                continue
            zone = row.get("zone", "*")
            for z in instance_types.zones(itype) if zone == "*" else (zone,):
                points = self.points.setdefault((itype, z), [])
                points.append((float(row.get("at", now)), price))
                points.sort(key=lambda p: p[0])

    def spot(self, itype: str, zone: str, t: float) -> float | None:
        held = [p for at, p in self.points.get((itype, zone), []) if at <= t]
        return held[-1] if held else None

    def at(self, itype: str, zone: str, market: str, t: float, default: float) -> float:
        """Dollars an hour. A type without a spot price costs its on-demand price."""
        spot = self.spot(itype, zone, t) if market == "spot" else None
        return spot if spot is not None else self.on_demand.get(itype, default)

    def listing(self, now: float) -> list[dict[str, Any]]:
        return [{"type": t, "zone": z, "price": self.spot(t, z, now), "on_demand": self.on_demand.get(t)}
                for t, z in sorted(self.points)]

    def history(self, types: list[str], zones: list[str], products: list[str], start: float, end: float) -> list[dict[str, Any]]:
        """Rows of DescribeSpotPriceHistory, newest first; the price already in force at `start` is one of them."""
        rows = []
        for (itype, zone), points in self.points.items():
            if (types and itype not in types) or (zones and zone not in zones):
                continue
            held = [p for p in points if p[0] <= start][-1:]
            for t, price in held + [p for p in points if start < p[0] <= end]:
                rows += [{"InstanceType": itype, "AvailabilityZone": zone, "ProductDescription": d,
                          "SpotPrice": f"{price:.6f}", "Timestamp": utc(t)} for d in products if d.startswith("Linux/UNIX")]
        rows.sort(key=lambda r: r["Timestamp"], reverse=True)
        return rows
