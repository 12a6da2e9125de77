"""Whether an instance may start: offered there, capacity of the pool, price, and the account's quotas."""

from __future__ import annotations

from . import instance_types
from .faults import matches
from .state import LAB

PLENTY = 1_000_000
Refusal = tuple[str, str]


def unoffered(itype: str, zone: str) -> str | None:
    """EC2's words when the type does not exist in that zone, for ever."""
    if zone in instance_types.zones(itype):
        return None
    return (f"Your requested instance type ({itype}) is not supported in your requested Availability Zone ({zone}). Please retry "
            f"your request by not specifying an Availability Zone or choosing {', '.join(instance_types.zones(itype))}.")


def live(market: str | None = None, itype: str | None = None, zone: str | None = None) -> int:
    return sum(r.live and market in (None, r.market) and itype in (None, r.instance.instance_type) and zone in (None, r.zone)
               for r in LAB.records.values())


def pool(itype: str, zone: str, market: str) -> tuple[int, Refusal]:
    """How many more the pool holds, and the refusal beyond that. The last row that fits counts."""
    message = (f"We currently do not have sufficient {itype} capacity in the Availability Zone you requested ({zone}). Our system "
               f"will be working on provisioning additional capacity.")
    for row in reversed(LAB.faults.of("capacity")):
        if matches(row, type=itype, zone=zone, market=market):
            code, n = row.get("error", "InsufficientInstanceCapacity"), row.get("available")
            if n is None:  # an error alone closes the pool
                n = 0 if "error" in row else PLENTY
            text = message if code == "InsufficientInstanceCapacity" else f"{code}: {itype} in {zone}"
            return max(0, int(n) - live(market, itype, zone)), (code, text)
    return PLENTY, ("InsufficientInstanceCapacity", message)


def quota(itype: str, market: str) -> tuple[int, Refusal]:
    """How many more the account's quotas allow. Real ones are in vCPUs by class; `instances` is for short tests."""
    refusal = (("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded") if market == "spot" else
               ("VcpuLimitExceeded", "You have requested more vCPU capacity than your current vCPU limit allows for the instance "
                "bucket that the specified instance type belongs to."))
    left = PLENTY
    for row in LAB.faults.of("quota"):
        mine = instance_types.families(itype)
        if row["market"] != market or row.get("family") not in (None, "*", *mine):
            continue
        same = [r.instance.instance_type for r in LAB.records.values() if r.live and r.market == market
                and (row.get("family") in (None, "*") or row["family"] in instance_types.families(r.instance.instance_type))]
        if "vcpus" in row:
            free = row["vcpus"] - sum(instance_types.vcpus(t) for t in same)
            left = min(left, max(0, int(free // max(1, instance_types.vcpus(itype)))))
        if "instances" in row:
            left = min(left, max(0, row["instances"] - len(same)))
    return left, refusal


def allowance(itype: str, zone: str, market: str, max_price: str | float | None) -> tuple[int, Refusal]:
    """How many may start here, and why no more. Price is looked at first, then capacity, then the quota."""
    left, refusal = pool(itype, zone, market)
    price = LAB.price(itype, zone, market)
    if market == "spot" and max_price and float(max_price) < price:
        return 0, ("SpotMaxPriceTooLow", f"Your Spot request price of {max_price} is lower than the minimum required Spot request "
                                         f"fulfillment price of {price}.")
    allowed, over = quota(itype, market)
    return (allowed, over) if allowed < left else (left, refusal)
