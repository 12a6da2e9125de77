"""Describe calls that moto answers slowly or not at all: instances, types, offerings, spot prices and requests, console."""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from typing import Any
from xml.sax.saxutils import escape

from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
from moto.ec2.responses._base_response import EC2BaseResponse

from .prices import utc
from .state import LAB

#: instance type -> its XML in DescribeInstanceTypes. moto's serializer takes about 2 ms for one.
TYPE_XML: dict[str, str] = {}


def answer(action: str, inner: str, next_token: str | None) -> tuple[str, dict[str, str]]:
    more = f"<nextToken>{next_token}</nextToken>" if next_token else ""
    return (f'<?xml version="1.0" encoding="utf-8"?>\n<{action}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
            f"<requestId>lab</requestId>{inner}{more}</{action}Response>"), {"Content-Type": "text/xml"}


class Describe(EC2BaseResponse):
    def _inner(self, result: dict[str, Any], tag: str) -> str:
        """What moto's serializer writes between the opening and the closing of `tag`."""
        body = self.serialized(ActionResult(result))[2]
        return body[body.index(f"<{tag}>") + len(tag) + 2:body.rindex(f"</{tag}>")]

    def _page(self, rows: list[Any], default: int) -> tuple[list[Any], str | None]:
        first, count = int(self._get_param("NextToken") or 0), self._get_int_param("MaxResults") or default
        return rows[first:first + count], str(first + count) if len(rows) > first + count else None

    # --- instances ------------------------------------------------------------------------------------
    def describe_instances(self) -> Any:
        """As moto's, with the XML of each instance kept until a call that may change it (`api.forget`)."""
        found = super().describe_instances().result
        items = []
        for r in found["Reservations"]:
            inside = "".join(self._instance_xml(r, i) for i in r.instances)
            items.append(f"<item><reservationId>{r.id}</reservationId><ownerId>{r.owner_id}</ownerId><groupSet/>"
                         f"<instancesSet>{inside}</instancesSet></item>")
        return answer("DescribeInstances", f"<reservationSet>{''.join(items)}</reservationSet>", found["NextToken"])

    def _instance_xml(self, reservation: Any, inst: Any) -> str:
        if inst.id not in LAB.xml:
            one = copy.copy(reservation)
            one.instances = [inst]
            LAB.xml[inst.id] = self._inner({"Reservations": [one]}, "instancesSet")
        return LAB.xml[inst.id]

    def get_console_output(self) -> ActionResult:
        self.ec2_backend.get_instance(self._get_param("InstanceId"))  # raises InvalidInstanceID.NotFound
        record = LAB.records.get(self._get_param("InstanceId"))
        text = record.console_text() if record else ""
        return ActionResult({"InstanceId": self._get_param("InstanceId"), "Timestamp": utc(LAB.now()),
                             "Output": Base64EncodedString.from_raw_string(text)})

    # --- types ----------------------------------------------------------------------------------------
    def describe_instance_types(self) -> Any:
        if self._get_param("InstanceTypes") and self._get_param("MaxResults"):
            raise EC2ClientError("InvalidParameterCombination", "The parameter InstanceTypes cannot be used with MaxResults")
        rows, more = self._page(super().describe_instance_types().result["InstanceTypes"], 10_000)
        for t in rows:
            if t["InstanceType"] not in TYPE_XML:
                TYPE_XML[t["InstanceType"]] = self._inner({"InstanceTypes": [t]}, "instanceTypeSet")
        inner = "".join(TYPE_XML[t["InstanceType"]] for t in rows)
        return answer("DescribeInstanceTypes", f"<instanceTypeSet>{inner}</instanceTypeSet>", more)

    def describe_instance_type_offerings(self) -> Any:
        kind = self._get_param("LocationType") or "region"
        if kind not in INSTANCE_TYPE_OFFERINGS:
            raise EC2ClientError("InvalidParameterValue", f"Invalid location type {kind}")
        rows = INSTANCE_TYPE_OFFERINGS[kind].get(self.region, [])
        for name, values in self._filters_from_querystring().items():
            key = {"instance-type": "InstanceType", "location": "Location"}.get(name)
            if key is None:
                raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")
            rows = [r for r in rows if any(fnmatchcase(r[key], v) for v in values)]
        rows, more = self._page(rows, 100_000)
        inner = "".join(f"<item><instanceType>{r['InstanceType']}</instanceType><locationType>{kind}</locationType>"
                        f"<location>{escape(r['Location'])}</location></item>" for r in rows)
        return answer("DescribeInstanceTypeOfferings", f"<instanceTypeOfferingSet>{inner}</instanceTypeOfferingSet>", more)

    # --- spot -----------------------------------------------------------------------------------------
    def describe_spot_price_history(self) -> ActionResult:
        f = self._filters_from_querystring()
        if unknown := set(f) - {"instance-type", "availability-zone", "product-description", "spot-price", "timestamp"}:
            raise EC2ClientError("InvalidParameterValue", f"The filter '{sorted(unknown)[0]}' is invalid")
        zone = self._get_param("AvailabilityZone")
        start, end = self._get_param("StartTime"), self._get_param("EndTime")
        rows = LAB.prices.history(
            self._get_param("InstanceTypes") or f.get("instance-type") or [],
            [zone] if zone else f.get("availability-zone") or [],
            self._get_param("ProductDescriptions") or f.get("product-description") or ["Linux/UNIX"],
            start.timestamp() if start else 0, end.timestamp() if end else LAB.now())
        rows, more = self._page(rows, 1000)
        return ActionResult({"SpotPriceHistory": rows, "NextToken": more})

    def describe_spot_instance_requests(self) -> ActionResult:
        ids = self._get_param("SpotInstanceRequestIds", [])
        for rid in ids:
            if rid not in self.ec2_backend.spot_instance_requests:
                raise EC2ClientError("InvalidSpotInstanceRequestID.NotFound", f"The spot instance request ID '{rid}' does not exist")
        found = super().describe_spot_instance_requests().result["SpotInstanceRequests"]
        rows, more = self._page(found, 1000)
        return ActionResult({"SpotInstanceRequests": rows, "NextToken": more})
