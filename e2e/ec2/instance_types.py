"""Instance types: moto's table (it has nearly all GPU types), the ones it lacks, and questions about them."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from moto.ec2.models.instance_types import (
    INSTANCE_TYPE_OFFERINGS,
    INSTANCE_TYPES,
    InstanceType,
    InstanceTypeBackend,
)

from . import REGION

#: name: (GPUs, vCPUs, memory in MiB). One V100 has 16 GiB.
P3 = {"p3.2xlarge": (1, 8, 62464), "p3.8xlarge": (4, 32, 249856), "p3.16xlarge": (8, 64, 499712)}


def add_missing() -> None:
    """Gives moto the p3 types, made from p3dn, which it has. Their zones here (a, b, c) are the lab's choice."""
    for name, (gpus, vcpus, memory) in P3.items():
        if name in INSTANCE_TYPES:
            continue
        t = copy.deepcopy(INSTANCE_TYPES["p3dn.24xlarge"])
        t["InstanceType"] = name
        t["MemoryInfo"]["SizeInMiB"] = memory
        t["VCpuInfo"] = {"DefaultVCpus": vcpus, "DefaultCores": vcpus // 2, "DefaultThreadsPerCore": 2}
        gpu = t["GpuInfo"]["Gpus"][0]
        gpu.update(Name="V100", Count=gpus, LogicalGpuCount=gpus, MemoryInfo={"SizeInMiB": 16384})
        t["GpuInfo"] = {"Gpus": [gpu], "TotalGpuMemoryInMiB": gpus * 16384}
        t["InstanceStorageSupported"] = False  # unlike p3dn, they have no disks of their own
        t.pop("InstanceStorageInfo", None)
        t["NetworkInfo"]["EfaSupported"] = False
        t["NetworkInfo"].pop("EfaInfo", None)
        INSTANCE_TYPES[name] = t
        InstanceTypeBackend.instance_types.append(InstanceType(name))
        for zone in "abc":
            INSTANCE_TYPE_OFFERINGS["availability-zone"][REGION].append(
                {"InstanceType": name, "Location": REGION + zone, "LocationType": "availability-zone"})
        INSTANCE_TYPE_OFFERINGS["region"][REGION].append(
            {"InstanceType": name, "Location": REGION, "LocationType": "region"})


def known(name: str) -> bool:
    return name in INSTANCE_TYPES


def gpus(name: str) -> int:
    """How many GPUs the device plugin will show; a g6f slice counts as one."""
    found = INSTANCE_TYPES.get(name, {}).get("GpuInfo", {}).get("Gpus", [])
    return sum(max(g.get("Count", 0), g.get("LogicalGpuCount", 0)) for g in found)


def vcpus(name: str) -> int:
    return INSTANCE_TYPES.get(name, {}).get("VCpuInfo", {}).get("DefaultVCpus", 0)


def families(name: str) -> tuple[str, str]:
    """The quota classes of a type: its letter as AWS names the quotas (G, P, …), and its family."""
    family = name.split(".")[0]
    return family[0].upper(), family


@cache
def zones(name: str) -> tuple[str, ...]:
    """The zones of the lab's region that offer the type."""
    rows: list[dict[str, Any]] = INSTANCE_TYPE_OFFERINGS["availability-zone"][REGION]
    return tuple(sorted(r["Location"] for r in rows if r["InstanceType"] == name))
