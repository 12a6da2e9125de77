"""The control paths below /_lab/ (README.md has the table). They are for the lab itself: nothing signs them."""

from __future__ import annotations

import json
from typing import Any

from moto.iam.models import iam_backends
from werkzeug.wrappers import Request, Response

from . import ACCOUNT, callers, instance_types, spot
from .bill import bill
from .prices import utc
from .state import LAB, RANK, Record


class NotThere(Exception):
    """404: no such path, instance or user."""


def shown(record: Record, full: bool = False) -> dict[str, Any]:
    i = record.instance
    row = {"id": i.id, "state": i.state, "reason": i.state_reason.code or None, "type": i.instance_type,
           "gpus": instance_types.gpus(i.instance_type), "zone": record.zone, "market": record.market, "subnet": i.subnet_id,
           "ip": i.private_ip, "private_dns": i.private_dns_name, "image": i.image_id, "tags": record.tags(),
           "client_token": i.client_token, "fleet": i._fleet_id, "spot_request": getattr(i, "spot_instance_request_id", None),
           "launched": record.launched, "running": record.running, "ended": record.ended, "gone": record.gone,
           "notice": record.notice, "reclaimed": record.reclaimed, "faults": record.faults}
    return {**row, "user_data": record.user_data()[0]} if full else row


def imds(record: Record, path: str) -> Response:
    """What the instance metadata service would say to this instance; 404 until there is something to say."""
    i = record.instance
    stamp = "%Y-%m-%dT%H:%M:%SZ"
    notice = utc(record.notice).strftime(stamp) if record.notice else None
    rebalance = utc(record.rebalance).strftime(stamp) if record.rebalance else None
    table = {"api/token": "lab-token", "user-data": record.user_data()[0] or None, "meta-data/instance-id": i.id,
             "meta-data/instance-type": i.instance_type, "meta-data/local-ipv4": i.private_ip,
             "meta-data/local-hostname": i.private_dns_name, "meta-data/placement/availability-zone": record.zone,
             "meta-data/placement/region": record.backend.region_name, "meta-data/instance-life-cycle": record.market,
             "meta-data/spot/instance-action": notice and json.dumps({"action": "terminate", "time": notice}),
             "meta-data/spot/termination-time": notice,
             "meta-data/events/recommendations/rebalance": rebalance and json.dumps({"noticeTime": rebalance})}
    table.update({f"meta-data/tags/instance/{k}": v for k, v in record.tags().items()})
    text = table.get(path)
    return Response(text or "Not Found", 200 if text is not None else 404, content_type="text/plain")


def change(record: Record, verb: str, body: dict[str, Any]) -> Any:
    """POST /_lab/instances/ID/verb."""
    iid = record.instance.id
    if verb == "state":
        if body.get("state") not in RANK:
            raise ValueError(f"state must be one of {', '.join(RANK)}")
        LAB.set_state(iid, body["state"], body.get("reason") or "Client.InstanceInitiatedShutdown")
    elif verb == "interrupt":
        spot.interrupt(iid, float(body.get("notice", 120)), body.get("code", "instance-terminated-no-capacity"))
    elif verb == "rebalance":
        spot.rebalance(iid)
    elif verb == "kill":
        LAB.set_state(iid, "shutting-down", body.get("reason") or "Server.InternalError")
    elif verb == "console":
        record.console = body["text"] if "text" in body else record.console_text() + body["append"]
    else:
        raise NotThere(verb)
    return shown(record)


def instances(method: str, part: list[str], body: Any) -> Any:
    if len(part) == 1:
        return [shown(r) for r in LAB.records.values()]
    record = LAB.records.get(part[1])
    if record is None:
        raise NotThere(part[1])
    if len(part) == 2:
        return shown(record, full=True)
    if method == "POST":
        return change(record, part[2], body or {})
    if part[2] == "console":
        return {"text": record.console_text()}
    raise NotThere("/".join(part))


def faults(method: str, part: list[str], body: Any) -> Any:
    if method == "POST":
        added = []
        for row in body if isinstance(body, list) else [body]:
            kept = LAB.faults.add(row)
            if row["kind"] == "price":
                LAB.prices.set([row], LAB.now())
            added.append(kept)
        return added
    if method == "DELETE" and len(part) == 2:
        if not LAB.faults.remove(int(part[1])):
            raise NotThere(part[1])
    elif method == "DELETE":
        LAB.faults.clear()
        LAB.prices.reset()
    return LAB.faults.rows


def users(method: str, part: list[str], body: Any) -> Any:
    if method == "POST":
        return callers.put_user(body["name"], body["policy"])
    if method == "DELETE":
        if part[-1] not in iam_backends[ACCOUNT]["aws"].users:
            raise NotThere(part[-1])
        callers.delete_user(part[-1])
    return callers.users()


def configure(body: dict[str, Any] | None) -> dict[str, Any]:
    if unknown := set(body or {}) - set(LAB.config):
        raise ValueError(f"no such setting: {', '.join(sorted(unknown))}; there are {', '.join(LAB.config)}")
    LAB.config.update(body or {})
    return LAB.config


def prices(method: str, body: Any) -> Any:
    if method == "POST":
        LAB.prices.set(body if isinstance(body, list) else [body], LAB.now())
    elif method == "DELETE":
        LAB.prices.reset()
    return LAB.prices.listing(LAB.now())


def reset() -> dict[str, Any]:
    LAB.forget()
    spot.forget_messages()
    return {"ok": True}


def clock(body: dict[str, Any] | None) -> dict[str, float]:
    if body:
        LAB.clock.advance(float(body["advance"]))
    return {"now": LAB.now()}


def route(request: Request) -> Any:
    method = request.method
    body = json.loads(request.get_data() or b"null") if method in ("POST", "PUT") else None
    part = request.path.removeprefix("/_lab/").strip("/").split("/")
    after = int(request.args.get("after", 0))
    with LAB.lock:
        match part[0]:
            case "health":
                return {"ok": True}
            case "world":
                return LAB.world
            case "config":
                return configure(body)
            case "faults":
                return faults(method, part, body)
            case "prices":
                return prices(method, body)
            case "instances":
                return instances(method, part, body)
            case "imds" if len(part) > 3 and part[1] in LAB.records:
                return imds(LAB.records[part[1]], "/".join(part[3:]))
            case "bill":
                return bill()
            case "clock":
                return clock(body)
            case "events":
                return [e for e in LAB.events if e["seq"] > after]
            case "calls":
                return [c for c in LAB.calls if c["seq"] > after]
            case "users":
                return users(method, part, body)
            case "reset" if method == "POST":
                return reset()
    raise NotThere(request.path)


def handle(environ: dict[str, Any], start: Any) -> Any:
    try:
        found = route(Request(environ))
        response = found if isinstance(found, Response) else Response(json.dumps(found, default=str), content_type="application/json")
    except NotThere as error:
        response = Response(json.dumps({"error": f"not found: {error}"}), 404, content_type="application/json")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        text = f"missing {error}" if isinstance(error, KeyError) else str(error)
        response = Response(json.dumps({"error": text}), 400, content_type="application/json")
    return response(environ, start)
