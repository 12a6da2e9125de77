"""CreateFleet `instant`: pools in the order of the allocation strategy, and Errors[] for each that gave too little.

The other fleet types are left to moto: they know neither capacity nor the hook. Attribute-based overrides
(InstanceRequirements) are refused. price-capacity-optimized means here: pools deep enough for the whole target first, then
the cheaper; the real one is not published.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2 import utils as ec2_utils
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.fleets import Fleet

from . import capacity
from .idempotency import once
from .launch import TEMPLATE_KEYS, Launch
from .state import LAB

#: What moto's own Fleet is made with, so that it launches nothing by itself.
NOTHING = {"TotalTargetCapacity": 0, "DefaultTargetCapacityType": "on-demand"}


@dataclass
class Pool:
    """One override of one launch template, ready to be launched."""

    params: dict[str, Any]
    zone: str
    price: float
    weight: float
    priority: float
    max_price: Any
    depth: int
    echo: dict[str, Any]  # as the answer names it

    @property
    def unit_price(self) -> float:
        return self.price / self.weight


ORDER = {
    "lowest-price": lambda want: lambda p: (p.unit_price,),
    "lowestPrice": lambda want: lambda p: (p.unit_price,),
    "price-capacity-optimized": lambda want: lambda p: (p.depth * p.weight < want, p.unit_price),
    "capacity-optimized": lambda want: lambda p: (-p.depth, p.unit_price),
    "capacity-optimized-prioritized": lambda want: lambda p: (-p.depth, p.priority),
    "prioritized": lambda want: lambda p: (p.priority, p.unit_price),
    "diversified": lambda want: lambda p: (p.unit_price,),
}


class InstantFleet(Launch):
    def create_fleet(self) -> ActionResult:
        if self.params.get("Type", "maintain") != "instant":
            return super().create_fleet()
        return once(("CreateFleet", self.region), self.params, self._instant_fleet)

    def _pools(self, market: str) -> Iterator[Pool]:
        for config in self.params.get("LaunchTemplateConfigs") or []:
            version = self.ec2_backend.template_version(config.get("LaunchTemplateSpecification") or {})
            resolved = {"LaunchTemplateId": version.template.id, "LaunchTemplateName": version.template.name,
                        "Version": str(version.number)}
            for o in config.get("Overrides") or [{}]:
                if "InstanceRequirements" in o:
                    raise EC2ClientError("InvalidParameterValue", "The lab does not know InstanceRequirements.")
                p = {k: copy.deepcopy(version.data[k]) for k in TEMPLATE_KEYS if k in version.data}
                p.pop("InstanceMarketOptions", None)
                p["InstanceType"] = o.get("InstanceType") or version.data.get("InstanceType")
                p["ImageId"] = o.get("ImageId") or version.image_id
                p["LaunchTemplate"] = {"LaunchTemplateId": version.template.id, "Version": str(version.number)}
                if o.get("SubnetId") and p.get("NetworkInterfaces"):
                    p["NetworkInterfaces"][0]["SubnetId"] = o["SubnetId"]
                    p.pop("SubnetId", None)
                elif o.get("SubnetId"):
                    p["SubnetId"] = o["SubnetId"]
                elif o.get("AvailabilityZone"):
                    p["Placement"] = {"AvailabilityZone": o["AvailabilityZone"]}
                if not p["InstanceType"]:
                    raise EC2ClientError("InvalidFleetConfiguration", "No instance type in the launch template or its override.")
                if market == "spot":
                    p["InstanceMarketOptions"] = {"MarketType": "spot"}
                zone = self._place(p)
                yield Pool(p, zone, LAB.price(p["InstanceType"], zone, market), float(o.get("WeightedCapacity") or 1),
                           float(o.get("Priority") or math.inf), o.get("MaxPrice"), capacity.pool(p["InstanceType"], zone, market)[0],
                           {"LaunchTemplateSpecification": resolved,
                            "Overrides": {**o, "InstanceType": p["InstanceType"], "AvailabilityZone": zone}})

    def _fill(self, market: str, want: float) -> tuple[list[tuple[Pool, int]], list[dict[str, Any]], float]:
        """Which pools give how many, what failed on the way, and the capacity reached."""
        options = self.params.get("SpotOptions" if market == "spot" else "OnDemandOptions") or {}
        strategy = options.get("AllocationStrategy", "lowest-price")
        if strategy not in ORDER:
            raise EC2ClientError("InvalidParameterValue", f"Invalid AllocationStrategy {strategy}.")
        budget = float(options.get("MaxTotalPrice") or math.inf)
        got, spent, plan, failed = 0.0, 0.0, [], []
        for pool in sorted(self._pools(market), key=ORDER[strategy](want)):
            need = math.ceil((want - got) / pool.weight)
            if unoffered := capacity.unoffered(pool.params["InstanceType"], pool.zone):
                n, refusal = 0, ("InvalidFleetConfiguration", unoffered)
            else:
                n, refusal = capacity.allowance(pool.params["InstanceType"], pool.zone, market, pool.max_price)
                n = min(n, need)
            if pool.price * n > budget - spent:
                n = int((budget - spent) // pool.price)
                refusal = ("SpotMaxPriceTooLow" if market == "spot" else "UnfulfillableCapacity", "MaxTotalPrice is reached.")
            if n < need:
                failed.append({"LaunchTemplateAndOverrides": pool.echo, "Lifecycle": market,
                               "ErrorCode": refusal[0], "ErrorMessage": refusal[1]})
            if n > 0:
                plan.append((pool, n))
                got, spent = got + n * pool.weight, spent + n * pool.price
            if got >= want:
                break
        if got < float(options.get("MinTargetCapacity") or 0):
            plan, got = [], 0.0
        return plan, failed, got

    def _instant_fleet(self) -> ActionResult:
        self.error_on_dryrun()
        p, backend = self.params, self.ec2_backend
        target = p["TargetCapacitySpecification"]
        want = {"spot": float(target.get("SpotTargetCapacity") or 0), "on-demand": float(target.get("OnDemandTargetCapacity") or 0)}
        want[target.get("DefaultTargetCapacityType", "on-demand")] += float(target["TotalTargetCapacity"]) - sum(want.values())
        fleet = Fleet(backend, ec2_utils.random_fleet_id(), p.get("OnDemandOptions") or {}, p.get("SpotOptions") or {}, NOTHING,
                      [], "termination", False, False, "instant", None, None, p.get("TagSpecifications") or [])
        fleet.launch_template_configs = p.get("LaunchTemplateConfigs") or []
        fleet.target_capacity_specification, fleet.target_capacity = target, int(target["TotalTargetCapacity"])
        tags = [copy.deepcopy(t) for t in p.get("TagSpecifications") or [] if t.get("ResourceType") != "fleet"]
        # A fleet's own tags do not reach its instances; its id does.
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "aws:ec2:fleet-id", "Value": fleet.id}]}, *tags]
        plans = {m: self._fill(m, want[m]) for m in ("on-demand", "spot") if want[m] > 0}
        backend.fleets[fleet.id] = fleet
        instances, errors = [], []
        for market, (plan, failed, got) in plans.items():
            errors += failed
            for pool, n in plan:
                request = dict(pool.params, MinCount=n, MaxCount=n, TagSpecifications=copy.deepcopy(tags))
                try:
                    made = self._launch(request, market, pool.max_price, fleet.id).result.instances
                except EC2ClientError as refused:  # a bad AMI, security group or profile, say
                    errors.append({"LaunchTemplateAndOverrides": pool.echo, "Lifecycle": market,
                                   "ErrorCode": refused.code, "ErrorMessage": refused.message})
                    got -= n * pool.weight
                    continue
                for inst in made:
                    fleet.on_demand_instances.append({"id": getattr(inst, "spot_instance_request_id", None), "instance": inst})
                instances.append({"LaunchTemplateAndOverrides": pool.echo, "Lifecycle": market, "InstanceIds": [i.id for i in made],
                                  "InstanceType": request["InstanceType"], "AvailabilityZone": pool.zone, "SubnetId": made[0].subnet_id})
            fleet.fulfilled_capacity += got
        return ActionResult({"FleetId": fleet.id, "Instances": instances, "Errors": errors})
