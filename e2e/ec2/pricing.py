"""AWSPriceListService.GetProducts (AWS JSON 1.1), which moto lacks: on-demand Linux, shared tenancy, from the price table.

The shape is the real one, with the attributes that clients filter on; SKUs are made up. Prices set through
`/_lab/prices` with `"market":"on-demand"` are answered too.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from moto.ec2.models.instance_types import INSTANCE_TYPES

from . import REGION, instance_types
from .state import LAB


def product(itype: str, price: float) -> dict[str, Any]:
    """One entry of PriceList, before it is made a string."""
    sku = hashlib.sha256(itype.encode()).hexdigest()[:16].upper()
    term, rate = "JRTCKXETXF", "6YS6EN2CT7"  # the codes AWS uses for on-demand and for an hour
    memory = INSTANCE_TYPES.get(itype, {}).get("MemoryInfo", {}).get("SizeInMiB", 0)
    attributes = {
        "servicecode": "AmazonEC2", "servicename": "Amazon Elastic Compute Cloud", "instanceType": itype, "regionCode": REGION,
        "location": "US East (N. Virginia)", "locationType": "AWS Region", "operatingSystem": "Linux", "tenancy": "Shared",
        "preInstalledSw": "NA", "capacitystatus": "Used", "marketoption": "OnDemand", "operation": "RunInstances",
        "licenseModel": "No License required", "currentGeneration": "Yes", "instanceFamily": "GPU instance",
        "usagetype": f"BoxUsage:{itype}", "vcpu": str(instance_types.vcpus(itype)), "memory": f"{memory // 1024} GiB",
        "gpu": str(instance_types.gpus(itype))}
    dimension = {
        "unit": "Hrs", "endRange": "Inf", "beginRange": "0", "appliesTo": [], "rateCode": f"{sku}.{term}.{rate}",
        "description": f"${price:g} per On Demand Linux {itype} Instance Hour", "pricePerUnit": {"USD": f"{price:.10f}"}}
    return {
        "product": {"productFamily": "Compute Instance", "attributes": attributes, "sku": sku}, "serviceCode": "AmazonEC2",
        "terms": {"OnDemand": {f"{sku}.{term}": {
            "priceDimensions": {f"{sku}.{term}.{rate}": dimension}, "sku": sku, "effectiveDate": "2026-07-01T00:00:00Z",
            "offerTermCode": term, "termAttributes": {}}}},
        "version": "20260720000000", "publicationDate": "2026-07-20T00:00:00Z"}


def fits(entry: dict[str, Any], row: dict[str, str]) -> bool:
    """A filter compares without regard to case, as AWS does; TERM_MATCH is the usual type."""
    fields = {**entry["product"]["attributes"], "productFamily": entry["product"]["productFamily"],
              "sku": entry["product"]["sku"], "ServiceCode": "AmazonEC2"}
    actual, value = fields.get(row["Field"], "").lower(), row["Value"].lower()
    kind = row.get("Type", "TERM_MATCH")
    if kind == "ANY_OF":
        return actual in value.split(",")
    if kind == "NONE_OF":
        return actual not in value.split(",")
    if kind == "CONTAINS":
        return value in actual
    return actual == value


def get_products(asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to GetProducts; ValueError for another service or a bad token."""
    if asked.get("ServiceCode", "").lower() != "amazonec2":
        raise ValueError(f"The service code {asked.get('ServiceCode')} is not valid")
    with LAB.lock:
        entries = [product(t, p) for t, p in sorted(LAB.prices.on_demand.items())]
    entries = [e for e in entries if all(fits(e, row) for row in asked.get("Filters") or [])]
    first, count = int(asked.get("NextToken") or 0), int(asked.get("MaxResults") or 100)
    answer: dict[str, Any] = {"FormatVersion": "aws_v1", "PriceList": [json.dumps(e) for e in entries[first:first + count]]}
    if len(entries) > first + count:
        answer["NextToken"] = str(first + count)
    return answer
