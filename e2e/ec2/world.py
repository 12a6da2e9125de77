"""What is there at the start: network, role, images and their SSM parameters, the event queue."""

from __future__ import annotations

import datetime
import json
from typing import Any

from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.sqs.models import sqs_backends
from moto.ssm.models import Parameter, ssm_backends

from . import ACCOUNT, CLUSTER, REGION, callers
from .backend import CIDR
from .state import DEFAULTS

KUBERNETES = ("1.33", "1.34", "1.35")
PARAMETER = "/aws/service/eks/optimized-ami/{version}/amazon-linux-2023/x86_64/{variant}/recommended/image_id"
NODE = "gpujob-node"
TAGS = {"gpujob.dev/cluster": CLUSTER, f"kubernetes.io/cluster/{CLUSTER}": "owned"}


def _image(backend: Any, version: str, variant: str) -> str:
    ami = backend.register_image(name=f"amazon-eks-node-al2023-x86_64-{variant}-{version}-v20261101",
                                 description=f"EKS-optimized Kubernetes node based on Amazon Linux 2023, {variant} (lab)")
    ami.architecture, ami.virtualization_type, ami.root_device_name = "x86_64", "hvm", "/dev/xvda"
    ami.launch_permissions = [{"Group": "all"}]
    return ami.id


def _parameter(name: str, value: str) -> None:
    # Straight into moto: PutParameter below /aws is refused, as on AWS.
    ssm_backends[ACCOUNT][REGION]._parameters[name] = [Parameter(
        ACCOUNT, name, value, "String", None, None, None, datetime.datetime.now(datetime.timezone.utc), 1, "text")]


def make(url: str) -> dict[str, Any]:
    """Builds it and answers what GET /_lab/world says."""
    ec2 = ec2_backends[ACCOUNT][REGION]
    vpc = ec2.get_default_vpc()
    vpc.enable_dns_hostnames = True
    subnets = {s.availability_zone: s for s in ec2.describe_subnets(filters={"vpc-id": [vpc.id]})}
    group = ec2.create_security_group(NODE, "Nodes of the lab cluster", vpc_id=vpc.id)
    for thing in (vpc, group, *subnets.values()):
        thing.add_tags({**TAGS, "Name": f"{CLUSTER}/{getattr(thing, 'availability_zone', NODE)}"})
    iam = iam_backends[ACCOUNT]["aws"]
    trust = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
    iam.create_role(NODE, json.dumps(trust), "/", None, "Nodes of the lab cluster", [], "3600")
    iam.create_instance_profile(NODE, "/", [NODE])
    amis = {}
    for version in KUBERNETES:
        for variant in ("nvidia", "standard"):
            image = _image(ec2, version, variant)
            _parameter(PARAMETER.format(version=version, variant=variant), image)
            amis[f"{version}/{variant}"] = image
    queue = DEFAULTS["event_queue"]
    sqs_backends[ACCOUNT][REGION].create_queue(queue, MessageRetentionPeriod="300")
    return {"account": ACCOUNT, "region": REGION, "cluster": CLUSTER, "vpc": vpc.id, "cidr": CIDR,
            "subnets": {z: s.id for z, s in sorted(subnets.items())}, "security_group": group.id, "instance_profile": NODE,
            "ami": amis["1.35/nvidia"], "amis": amis, "queue_url": f"{url}/{ACCOUNT}/{queue}",
            "access_key": callers.ROOT_KEY, "secret_key": callers.ROOT_SECRET}
