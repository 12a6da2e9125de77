"""RunInstances, and the one way in which anything is launched."""

from __future__ import annotations

import copy
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses._base_response import EC2BaseResponse

from . import capacity, instance_types, spot
from .idempotency import once
from .state import LAB

#: What a launch template gives unless the request says otherwise; moto takes over the rest of it by itself.
TEMPLATE_KEYS = ("InstanceMarketOptions", "SubnetId", "NetworkInterfaces", "Placement", "IamInstanceProfile", "MetadataOptions",
                 "Monitoring", "EbsOptimized", "InstanceInitiatedShutdownBehavior", "DisableApiTermination")


class Launch(EC2BaseResponse):
    def run_instances(self) -> ActionResult:
        p = self.params
        placed = p.get("SubnetId") or (p.get("Placement") or {}).get("AvailabilityZone") or ""
        return once(("RunInstances", self.region, placed), p, self._run_instances)  # tokens are zonal if the request is

    def _run_instances(self) -> ActionResult:
        self.error_on_dryrun()
        p = dict(self.params)
        if p.get("LaunchTemplate"):
            version = self.ec2_backend.template_version(p["LaunchTemplate"])
            p.update({k: copy.deepcopy(version.data[k]) for k in TEMPLATE_KEYS if k in version.data and k not in p})
            p.setdefault("InstanceType", version.data.get("InstanceType", "m1.small"))
            p.setdefault("ImageId", version.image_id)
        p.setdefault("InstanceType", "m1.small")
        itype, zone = p["InstanceType"], self._place(p)
        if unoffered := capacity.unoffered(itype, zone):
            raise EC2ClientError("Unsupported", unoffered)
        options = p.get("InstanceMarketOptions") or {}
        market = options.get("MarketType", "on-demand")
        max_price = (options.get("SpotOptions") or {}).get("MaxPrice")
        left, refusal = capacity.allowance(itype, zone, market, max_price)
        least = int(p.get("MinCount", 1))
        if left < least:
            raise EC2ClientError(*refusal)
        p["MinCount"] = min(left, int(p.get("MaxCount", least)))  # moto launches MinCount
        return self._launch(p, market, max_price)

    def _place(self, p: dict[str, Any]) -> str:
        """The zone of a request; a request without a subnet gets the default one of its zone, or of the first."""
        nics = p.get("NetworkInterfaces") or []
        subnet = p.get("SubnetId") or next((n["SubnetId"] for n in nics if n.get("SubnetId")), None)
        if subnet is None:
            zone = (p.get("Placement") or {}).get("AvailabilityZone") or self.region + "a"
            found = self.ec2_backend.get_default_subnets().get(zone)
            if found is None:
                raise EC2ClientError("InvalidInput", f"No default subnet for availability zone: '{zone}'.")
            subnet = found.id
            if nics:
                nics[0]["SubnetId"] = subnet
            else:
                p["SubnetId"] = subnet
        return self.ec2_backend.get_subnet(subnet).availability_zone

    def _launch(self, params: dict[str, Any], market: str, max_price: Any = None, fleet: str | None = None) -> ActionResult:
        """moto's own RunInstances on these parameters, then the lab's record and event for each instance."""
        if not instance_types.known(params["InstanceType"]):
            raise EC2ClientError("InvalidParameterValue", f"Invalid value '{params['InstanceType']}' for InstanceType.")
        self.ec2_backend.describe_images(ami_ids=[params.get("ImageId") or "none"])  # raises InvalidAMIID.NotFound or .Malformed
        if not params.get("BlockDeviceMappings") and params.get("LaunchTemplate"):
            # moto adds a root volume of its own to the template's.
            version = self.ec2_backend.template_version(params["LaunchTemplate"])
            params = {**params, **{k: copy.deepcopy(version.data[k]) for k in ("BlockDeviceMappings",) if version.data.get(k)}}
        token, mine = self.params.get("ClientToken"), self.params
        self.params = params
        try:
            result = super().run_instances()
        finally:
            self.params = mine
        tags = {t["Key"]: t["Value"] for spec in params.get("TagSpecifications") or []
                if spec.get("ResourceType") == "spot-instances-request" for t in spec.get("Tags", [])}
        profile = params.get("IamInstanceProfile") or {}
        for inst in result.result.instances:
            inst.reservation_id, inst._fleet_id = result.result.id, fleet
            record = LAB.launched(self.ec2_backend, inst, market, token, profile.get("Name") or profile.get("Arn"))
            if market == "spot":
                spot.record_request(record, max_price, tags)
            LAB.emit("boot", record)
            LAB.on_state(record, "pending", "")
        return result
