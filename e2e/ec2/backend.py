"""moto's EC2 backend with the lab's view of its instances: they appear late, end late, and vanish after an hour."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from moto.ec2 import utils as ec2_utils
from moto.ec2.exceptions import EC2ClientError, InvalidInstanceIdError
from moto.ec2.models import EC2Backend
from moto.ec2.models.instances import Instance
from moto.ec2.models.launch_templates import LaunchTemplate

from . import REGION
from .state import LAB

CIDR = "10.77.0.0/16"
SUBNETS = {"us-east-1a": "10.77.16.0/20", "us-east-1b": "10.77.32.0/20", "us-east-1c": "10.77.48.0/20"}

#: DescribeInstances filters that moto answers with HTTP 500, and the attribute each one is about.
ec2_utils.filter_dict_attribute_mapping.update({
    "client-token": "client_token", "instance-lifecycle": "lifecycle", "reservation-id": "reservation_id",
    "spot-instance-request-id": "spot_instance_request_id", "instance-state-code": "state_code_text",
    "launch-time": "launch_time_text"})
Instance.state_code_text = property(lambda self: str(self.state_code))
Instance.launch_time_text = property(lambda self: self.launch_time.strftime("%Y-%m-%dT%H:%M:%S.000Z"))


class HeldAddresses(OrderedDict):
    """Freed addresses of a subnet, as moto's set: the oldest comes back first, and only once 1,000 wait.

    An address that comes back at once would give a new node the name of one that Kubernetes still knows.
    """

    def add(self, address: str) -> None:
        self[address] = None

    def remove(self, address: str) -> None:
        del self[address]

    def pop(self) -> str:  # type: ignore[override]  # as set.pop
        if len(self) < 1000:
            raise KeyError
        return self.popitem(last=False)[0]


class LabEC2Backend(EC2Backend):
    __module__ = EC2Backend.__module__  # moto finds urls.py from it

    def create_default_vpc(self) -> Any:
        """The lab's VPC is the default one, so that no launch can end up with an address that the lab cannot route."""
        if self.region_name != REGION:
            return super().create_default_vpc()
        vpc = self.create_vpc(cidr_block=CIDR, is_default=True)
        for zone, cidr in SUBNETS.items():
            subnet = self.create_subnet(vpc.id, cidr, availability_zone=zone)
            subnet.map_public_ip_on_launch = False
            subnet._unused_ips = HeldAddresses()
        return vpc

    def describe_tags(self, filters: Any = None) -> list[dict[str, str]]:
        """moto matches a regex against every tag of every resource, for each instance; here it is a look-up."""
        ids = (filters or {}).get("resource-id", [])
        if set(filters or {}) == {"resource-id"} and not any("*" in i or "?" in i for i in ids):
            return [{"resource_id": i, "key": k, "value": v,
                     "resource_type": ec2_utils.EC2_PREFIX_TO_RESOURCE.get(ec2_utils.get_prefix(i), "")}
                    for i in ids for k, v in self.tags.get(i, {}).items()]
        return super().describe_tags(filters)

    def _seen(self, instance_id: str) -> bool:
        record, now = LAB.records.get(instance_id), LAB.now()
        if record is None:
            return False  # forgotten
        late = now < record.launched + LAB.faults.lag()
        return not late and not (record.gone and now > record.gone + LAB.config["terminated_visible"])

    def describe_instances(self, filters: Any = None, only: set[str] | None = None) -> list[Any]:
        found = []
        for reservation in list(self.reservations.values()):
            shown = copy.copy(reservation)
            shown.instances = [i for i in reservation.instances if (only is None or i.id in only) and self._seen(i.id)]
            if shown.instances:
                found.append(shown)
        return ec2_utils.filter_reservations(found, filters) if filters else found

    def get_reservations_by_instance_ids(self, instance_ids: list[str], filters: Any = None) -> list[Any]:
        found = self.describe_instances(only=set(instance_ids))
        missing = set(instance_ids) - {i.id for r in found for i in r.instances}
        if missing:
            raise InvalidInstanceIdError(sorted(missing))
        return ec2_utils.filter_reservations(found, filters) if filters else found

    def describe_instance_status(self, instance_ids: list[str], include_all_instances: bool, filters: Any) -> list[Any]:
        hidden = [i for i in instance_ids if i in LAB.records and not self._seen(i)]
        if hidden:
            raise InvalidInstanceIdError(hidden)
        found = super().describe_instance_status(instance_ids, include_all_instances, filters)
        return [i for i in found if self._seen(i.id)]

    def terminate_instances(self, instance_ids: list[str]) -> list[tuple[Any, Any]]:
        """All or none, as on EC2. Takes effect even while DescribeInstances does not show the instance yet."""
        result = []
        instances = self.get_multi_instances_by_id(instance_ids)
        for inst in instances:
            if inst.disable_api_termination is True or inst.id not in LAB.records:
                return super().terminate_instances([inst.id])  # raises, or moto's own way with what the lab forgot
        for inst in instances:
            result.append((inst, copy.copy(inst._state)))
            LAB.set_state(inst.id, "shutting-down", "Client.UserInitiatedShutdown")
        return result

    # --- launch templates: the errors that EC2 gives ------------------------------------------------------
    def describe_launch_templates(self, template_names: Any = None, template_ids: Any = None, filters: Any = None) -> list[LaunchTemplate]:
        for tid in template_ids or []:
            self.get_launch_template(tid)  # raises InvalidLaunchTemplateId.NotFound; moto leaves it out
        return super().describe_launch_templates(template_names, template_ids, filters)

    def delete_launch_template(self, name: str | None, tid: str | None) -> LaunchTemplate:
        template = self.get_launch_template_by_name(name) if name else self.get_launch_template(tid or "")
        return super().delete_launch_template(template.name, None)

    def template_version(self, spec: dict[str, Any]) -> Any:
        """The version that a LaunchTemplateSpecification means: id or name, number, $Latest, $Default or nothing."""
        if bool(spec.get("LaunchTemplateId")) == bool(spec.get("LaunchTemplateName")):
            raise EC2ClientError("InvalidParameterCombination", "Specify either LaunchTemplateId or LaunchTemplateName.")
        template = (self.get_launch_template(spec["LaunchTemplateId"]) if spec.get("LaunchTemplateId")
                    else self.get_launch_template_by_name(spec["LaunchTemplateName"]))
        version = str(spec.get("Version") or "$Default")
        if version not in ("$Latest", "$Default") and not (version.isdigit() and 1 <= int(version) <= len(template.versions)):
            raise EC2ClientError("InvalidLaunchTemplateId.VersionNotFound",
                                 f"Could not find the specified version {version} for the launch template with ID {template.id}.")
        return template.get_version(version)
