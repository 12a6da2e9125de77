"""One port for everything. moto is changed here, before any of its backends exists, and at these points only:

- `ec2_backends.backend` and `moto.ec2.urls.url_paths` point at the classes of this package;
- `ActionAuthenticatorMixin` asks `callers` who may do what;
- the DescribeInstances filters (`backend`), the p3 types (`instance_types`).
"""

from __future__ import annotations

import io
import json
import pathlib
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from moto.ec2 import urls as ec2_urls
from moto.ec2.models import ec2_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from . import callers, control, hooks, pricing, signature, spot, world
from .api import LabEC2Response
from .backend import LabEC2Backend
from .state import LAB

ec2_backends.backend = LabEC2Backend
ec2_urls.url_paths = {"{0}/": LabEC2Response.dispatch}
callers.install()
LAB.on_state = spot.state_changed

CODE = re.compile(rb'<Code>([^<]+)</Code>|"__type":\s*"(?:[^"]*#)?([^"]+)"')


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # clients keep their connections

    def log(self, *args: Any, **kw: Any) -> None:
        pass


def action_of(environ: dict[str, Any], body: bytes) -> str:
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return target.split(".")[-1]
    form = re.search(rb"(?:^|&)Action=([^&]+)", body) or re.search(rb"(?:^|&)Action=([^&]+)", environ.get("QUERY_STRING", "").encode())
    return unquote(form[1].decode()) if form else environ.get("PATH_INFO", "")


def note(environ: dict[str, Any], body: bytes) -> dict[str, Any]:
    """A row of GET /_lab/calls, at the moment the call came in; its error is filled in later."""
    came = time.time()
    key, service = signature.key_of(environ)
    with LAB.lock:
        LAB.call_count += 1
        row = {"seq": LAB.call_count, "at": came, "service": service, "action": action_of(environ, body), "key": key, "error": None}
        LAB.calls.append(row)
    return row


class App:
    """Control paths to the lab, Pricing to `pricing`, all else to moto."""

    def __init__(self) -> None:
        self.moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/_lab/"):
            return control.handle(environ, start)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        callers.current.environ, callers.current.body = environ, body
        row = note(environ, body)
        if environ.get("HTTP_X_AMZ_TARGET", "").startswith("AWSPriceListService."):
            return self.price_list(row, body, start)
        status: list[str] = []

        def noted(line: str, headers: Any, exc_info: Any = None) -> Any:
            status.append(line)
            return start(line, headers, exc_info)

        chunks = list(self.moto(environ, noted))
        if status and status[-1][0] in "45":
            found = CODE.search(b"".join(chunks))
            row["error"] = (found[1] or found[2]).decode() if found else status[-1]
        return chunks

    def price_list(self, row: dict[str, Any], body: bytes, start: Callable[..., Any]) -> Iterable[bytes]:
        status, answer = "200 OK", {}
        try:
            callers.authorize("pricing", row["action"])
            if row["action"] != "GetProducts":
                raise callers.Refused("UnknownOperationException", f"The lab does not know {row['action']}")
            answer = pricing.get_products(json.loads(body or b"{}"))
        except callers.Refused as no:
            status, answer, row["error"] = "400 Bad Request", {"__type": no.code, "message": no.message}, no.code
        except (ValueError, KeyError) as bad:
            code = row["error"] = "InvalidParameterException"
            status, answer = "400 Bad Request", {"__type": code, "Message": str(bad)}
        data = json.dumps(answer).encode()
        start(status, [("Content-Type", "application/x-amz-json-1.1"), ("Content-Length", str(len(data)))])
        return [data]


def serve(bind: str, port: int, hook: str | None = None, state_dir: pathlib.Path | None = None,
          console_log: str | None = None) -> BaseWSGIServer:
    """Makes the world and serves it in a thread. The server knows its `server_port`; `shutdown()` ends it."""
    server = make_server(bind, port, App(), threaded=True, request_handler=Quiet)
    LAB.on_event = hooks.Command(hook, state_dir or pathlib.Path("ec2-state")) if hook else hooks.SelfBoot()
    LAB.console_log = console_log
    LAB.world = LAB.world or world.make(f"http://{bind}:{server.server_port}")
    threading.Thread(target=server.serve_forever, name="ec2-http", daemon=True).start()
    return server
