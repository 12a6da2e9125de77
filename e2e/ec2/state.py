"""What the lab knows about its cloud and moto does not: one record for each instance, and the way its state moves.

One lock guards all of it and every EC2 call; hooks and timers run outside of it.
"""

from __future__ import annotations

import pathlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from moto.ec2.models.instances import Instance, InstanceState, StateReason

from . import instance_types
from .clock import Clock
from .faults import Faults
from .prices import Prices, utc

instance_types.add_missing()  # before Prices asks for their zones

CODES = {"pending": 0, "running": 16, "stopped": 80, "shutting-down": 32, "terminated": 48}
#: States only go forward. `stopped` is what EC2 does to an instance that shuts itself down unless its template says
#: `terminate`; it is a trap worth having in a lab.
RANK = {"pending": 0, "running": 1, "stopped": 2, "shutting-down": 3, "terminated": 4}
DEFAULTS: dict[str, Any] = {
    "boot_seconds": 0.2, "end_seconds": 0.2,  # only without a hook
    "terminated_visible": 3600,  # about what EC2 does
    "default_price": 1.0,  # dollars an hour of a type that is not in the table
    "remember_failures": False,  # whether a token remembers a refused launch; the real rule is not known to us
    "event_queue": "gpujob-interruptions",
}
TEXTS = {
    "Client.UserInitiatedShutdown": "User initiated shutdown",
    "Client.InstanceInitiatedShutdown": "Instance initiated shutdown",
    "Server.SpotInstanceTermination": "Spot instance termination",
    "Server.InternalError": "Internal error on launch",
}


@dataclass
class Record:
    """What the lab adds to one of moto's instances. Times are unix seconds of lab time."""

    instance: Instance
    backend: Any
    market: str
    zone: str
    launched: float
    faults: dict[str, Any]
    running: float | None = None
    ended: float | None = None  # shutting-down: billing stops
    gone: float | None = None  # terminated
    reclaimed: bool = False
    notice: float | None = None  # when it will be taken
    rebalance: float | None = None  # when that was recommended
    console: str | None = None  # as it was told; otherwise what the instance wrote
    profile: str | None = None

    @property
    def rank(self) -> int:
        return RANK.get(self.instance.state, 1)

    @property
    def live(self) -> bool:
        return self.rank < RANK["shutting-down"]

    def console_text(self) -> str:
        if self.console is None and LAB.console_log:
            path = pathlib.Path(LAB.console_log.format(id=self.instance.id))
            try:
                return path.read_bytes()[-65536:].decode(errors="replace")  # EC2 keeps 64 KB
            except OSError:
                return ""
        return self.console or ""

    def tags(self) -> dict[str, str]:
        return dict(self.backend.tags.get(self.instance.id, {}))

    def user_data(self) -> tuple[str, bool]:
        """The text, and whether it is still base64 because it is not UTF-8."""
        raw = self.instance.user_data
        if not raw:
            return "", False
        try:
            return raw.decode(), False
        except UnicodeDecodeError:
            return str(raw), True


@dataclass
class Lab:
    lock: Any = field(default_factory=threading.RLock)
    clock: Clock = field(default_factory=Clock)
    faults: Faults = field(default_factory=Faults)
    prices: Prices = field(default_factory=Prices)
    on_event: Callable[[dict[str, Any]], None] = lambda event: None  # the hook, set by server.py
    on_state: Callable[[Record, str, str], None] = lambda record, state, reason: None  # notices, set by server.py
    world: dict[str, Any] = field(default_factory=dict)
    console_log: str | None = None  # where an instance writes its console, with {id}

    def __post_init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.forget()

    def forget(self) -> None:
        """Everything but the world, templates, users and the hook. No hook is told: end what it started first."""
        for record in self.records.values():
            if record.instance.state != "terminated":
                record.instance.terminate()  # frees its address, interface and volume; asks for its fleet
        for backend in {id(r.backend): r.backend for r in self.records.values()}.values():
            for kept in (backend.reservations, backend.spot_instance_requests, backend.fleets):
                kept.clear()
        self.config = dict(DEFAULTS)
        self.records = {}
        self.tokens: dict[Any, Any] = {}
        self.xml: dict[str, str] = {}  # instance id -> its XML in DescribeInstances
        self.events: list[dict[str, Any]] = []
        self.calls: deque[dict[str, Any]] = deque(maxlen=20_000)
        self.call_count = 0
        self.faults.clear()
        self.prices.reset()
        self.clock.clear()

    def now(self) -> float:
        return self.clock.now()

    def price(self, itype: str, zone: str, market: str, t: float | None = None) -> float:
        return self.prices.at(itype, zone, market, self.now() if t is None else t, self.config["default_price"])

    def emit(self, event: str, record: Record, reason: str | None = None) -> None:
        i = record.instance
        text, encoded = record.user_data()
        row = {"seq": len(self.events) + 1, "event": event, "id": i.id, "type": i.instance_type,
               "gpus": instance_types.gpus(i.instance_type), "zone": record.zone, "market": record.market,
               "subnet": i.subnet_id, "ip": i.private_ip, "private_dns": i.private_dns_name, "image": i.image_id,
               "user_data": text, "tags": record.tags(), "account": record.backend.account_id,
               "region": record.backend.region_name, "profile": record.profile, "launched": record.launched,
               "reason": reason, "faults": record.faults}
        if encoded:
            row["user_data_base64"] = True
        self.events.append(row)
        self.on_event(row)

    def launched(self, backend: Any, instance: Instance, market: str, token: str | None, profile: str | None) -> Record:
        """Takes over a new instance from moto, which calls it running at once."""
        now, zone = self.now(), instance.placement.zone
        instance._state = InstanceState("pending", 0)
        instance.launch_time, instance.client_token = utc(now), token
        for nic in instance.nics.values():  # moto leaves it, and its address, behind; EC2's default is to delete it
            nic.delete_on_termination = True
        faults = self.faults.node(instance.instance_type, zone, market)
        for device in instance.block_device_mapping.values():
            device.delete_on_termination &= not faults["keep_volume"]
        record = Record(instance, backend, market, zone, now, faults, profile=profile)
        self.records[instance.id] = record
        return record

    def set_state(self, instance_id: str, state: str, reason: str | None = None) -> None:
        """The only way an instance changes state after launch. KeyError for an unknown id; never goes backwards.

        `shutting-down` makes the hook end it; `terminated` straight away is an instance that ended by itself.
        """
        record = self.records[instance_id]
        inst = record.instance
        if RANK[state] <= record.rank:
            return
        self.xml.pop(instance_id, None)
        code = reason or inst.state_reason.code or "Client.UserInitiatedShutdown"
        if (state == "terminated" and record.live and code == "Client.InstanceInitiatedShutdown"
                and record.market == "on-demand" and inst.instance_initiated_shutdown_behavior == "stop"):
            state = "stopped"
        if state == "running":
            record.running = self.now()
        elif record.ended is None:
            record.ended = self.now()
        if state == "terminated":
            inst.terminate()  # moto frees addresses, volumes and profile; it also writes its own reason
            record.gone = self.now()
        inst._state = InstanceState(state, CODES[state])
        if state != "running":
            inst.state_reason = StateReason(f"{code}: {TEXTS.get(code, 'Instance terminated by the provider')}", code)
            by_user = code.startswith("Client.User")
            inst._reason = f"User initiated ({utc(self.now()):%Y-%m-%d %H:%M:%S} GMT)" if by_user else code
        if state == "shutting-down":
            self.emit("end", record, code)
        self.on_state(record, state, code)


LAB = Lab()
