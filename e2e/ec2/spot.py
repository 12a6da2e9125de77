"""Spot instances: the request that DescribeSpotInstanceRequests shows, the notices, and the reclaim."""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import Any

from moto.ec2 import utils as ec2_utils
from moto.ec2.models.spot_requests import SpotInstanceRequest
from moto.sqs.models import sqs_backends

from . import ACCOUNT, REGION
from .prices import utc
from .state import LAB, Record

INTERRUPTION = "EC2 Spot Instance Interruption Warning"
REBALANCE = "EC2 Instance Rebalance Recommendation"
STATE_CHANGE = "EC2 Instance State-change Notification"
#: What the request of an interrupted instance says, and its state.
INTERRUPTED = {"instance-terminated-no-capacity": "closed", "instance-terminated-by-price": "closed", "marked-for-termination": "active"}
MESSAGES = {
    "fulfilled": "Your spot request is fulfilled.",
    "marked-for-termination": "Your Spot Instance is marked for termination.",
    "instance-terminated-no-capacity": "Your Spot instance was terminated because there is no Spot capacity available.",
    "instance-terminated-by-price": "Your Spot instance was terminated because the Spot price exceeded your maximum price.",
    "instance-terminated-by-user": "Spot Instance terminated due to user-initiated termination.",
}


class SpotRequest(SpotInstanceRequest):
    """The request behind a spot instance that RunInstances or CreateFleet launched; moto makes none for those."""

    __module__ = SpotInstanceRequest.__module__  # moto derives the service's name from it

    def launch_instance(self) -> Any:
        return self.all_tags.pop("_instance")  # it is there already

    @property
    def create_time(self) -> str:
        return utc(self.created).strftime("%Y-%m-%dT%H:%M:%S.000Z")

    @property
    def status_code(self) -> str:
        return self._status_code

    @property
    def status(self) -> dict[str, Any]:
        return {"Code": self._status_code, "Message": MESSAGES.get(self._status_code, self._status_code),
                "UpdateTime": utc(self.updated).strftime("%Y-%m-%dT%H:%M:%S.000Z")}

    @property
    def launched_availability_zone(self) -> str:
        return self.instance.placement.zone

    def move(self, state: str, code: str) -> None:
        self.state, self._status_code, self.updated = state, code, LAB.now()


def record_request(record: Record, max_price: str | None, tags: dict[str, str]) -> None:
    """Called at launch, once the instance has its record."""
    backend, inst = record.backend, record.instance
    rid = ec2_utils.random_spot_request_id()
    price = max_price or f"{LAB.price(inst.instance_type, record.zone, 'on-demand')}"  # EC2 shows the on-demand price
    SpotRequest.created = SpotRequest.updated = 0.0  # class defaults: __init__ of the base reads neither
    request = SpotRequest(
        backend, rid, price, inst.image_id, "one-time", None, None, None, None, inst.key_name, [], inst.user_data,
        inst.instance_type, inst.placement.zone, None, None, False, inst.subnet_id,
        {"_instance": inst, "spot-instances-request": tags}, None, None)
    request.created = request.updated = record.launched
    backend.spot_instance_requests[rid] = request
    inst.lifecycle, inst.spot_instance_request_id = "spot", rid


def request_of(record: Record) -> SpotRequest | None:
    return record.backend.spot_instance_requests.get(getattr(record.instance, "spot_instance_request_id", None))


def send(detail_type: str, record: Record, detail: dict[str, Any]) -> None:
    """The message that an EventBridge rule would put into the queue; a missing queue is like a missing rule."""
    b, iid, queue = record.backend, record.instance.id, LAB.config["event_queue"]
    if not queue:
        return
    # In these two EC2 writes the zone where the region belongs and leaves the account out; do not parse it.
    place = f"{b.region_name}:{b.account_id}" if detail_type == STATE_CHANGE else record.zone
    body = {"version": "0", "id": str(uuid.uuid4()), "detail-type": detail_type, "source": "aws.ec2", "account": b.account_id,
            "time": utc(LAB.now()).strftime("%Y-%m-%dT%H:%M:%SZ"), "region": b.region_name,
            "resources": [f"arn:aws:ec2:{place}:instance/{iid}"], "detail": {"instance-id": iid, **detail}}
    with contextlib.suppress(Exception):  # QueueDoesNotExist
        sqs_backends[b.account_id][b.region_name].send_message(queue, json.dumps(body))


def forget_messages() -> None:
    """Empties the event queue, without PurgeQueue's minute between two."""
    with contextlib.suppress(Exception):  # QueueDoesNotExist
        queue = sqs_backends[ACCOUNT][REGION].get_queue(LAB.config["event_queue"])
        queue._messages, queue._pending_messages = [], set()


def state_changed(record: Record, state: str, reason: str) -> None:
    """Told by the lab after each change: the spot request follows, and so does the queue."""
    request = request_of(record)
    if request and state in ("shutting-down", "terminated"):
        if not record.reclaimed and request.status_code != "instance-terminated-by-user":
            request.move("closed", "instance-terminated-by-user")
        elif request.state == "active":
            request.move("closed", "instance-terminated-no-capacity")
    send(STATE_CHANGE, record, {"state": state})


def interrupt(instance_id: str, notice: float, code: str = "instance-terminated-no-capacity") -> None:
    """Notice now, reclaim after `notice` seconds of lab time. EC2 gives 120 s, best effort; less has been seen.

    An instance that ends when it is interrupted has its final code, and a closed request, while it still runs (user guide,
    "Get the status of a Spot Instance request", note †). `marked-for-termination` is documented, too, and leaves it active.
    """
    if code not in INTERRUPTED:
        raise ValueError(f"code must be one of {', '.join(INTERRUPTED)}, not {code!r}")
    record = LAB.records[instance_id]
    if record.market != "spot" or not record.live:
        raise ValueError(f"{instance_id} is not a live spot instance")
    record.notice = LAB.now() + notice
    request = request_of(record)
    if request:
        request.move(INTERRUPTED[code], code)
    send(INTERRUPTION, record, {"instance-action": "terminate"})
    LAB.clock.at(record.notice, lambda: reclaim(instance_id))


def rebalance(instance_id: str) -> None:
    record = LAB.records[instance_id]
    if record.market != "spot" or not record.live:
        raise ValueError(f"{instance_id} is not a live spot instance")
    record.rebalance = LAB.now()
    send(REBALANCE, record, {})


def reclaim(instance_id: str) -> None:
    with LAB.lock:
        record = LAB.records.get(instance_id)
        if record and record.live:
            record.reclaimed = True
            LAB.set_state(instance_id, "shutting-down", "Server.SpotInstanceTermination")
