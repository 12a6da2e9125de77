"""Every EC2 call passes here: throttling, faults, one lock, and an error where moto would answer HTTP 500."""

from __future__ import annotations

import copy
import json
import re
import time
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses import EC2Response

from .describe import Describe
from .fleet import InstantFleet
from .state import LAB
from .templates import Templates

#: Error codes that EC2 sends with something else than 400. That InsufficientInstanceCapacity is a 500, which SDKs retry,
#: is from memory.
HTTP_STATUS = {"RequestLimitExceeded": 503, "InsufficientInstanceCapacity": 500, "InternalError": 500, "Unavailable": 503,
               "ServiceUnavailable": 503, "UnauthorizedOperation": 403, "AuthFailure": 401}
READS = ("Describe", "Get", "RunInstances", "CreateFleet")


def inject(fault: dict[str, Any] | None) -> None:
    if fault:
        time.sleep(fault.get("delay", 0))
        if fault.get("code"):
            raise EC2ClientError(fault["code"], fault.get("message", "injected by the lab"))


class LabEC2Response(InstantFleet, Templates, Describe, EC2Response):
    __module__ = EC2Response.__module__  # moto derives the service's name from it

    def call_action(self) -> Any:
        action = self._get_action()
        try:
            if LAB.faults.throttled(action, LAB.now()):
                raise EC2ClientError("RequestLimitExceeded", "Request limit exceeded.")
            inject(LAB.faults.call(action, "before"))
            with LAB.lock:
                answer = super().call_action()
                self._forget(action)
            inject(LAB.faults.call(action, "after"))  # the work is done, the answer is late or lost
            return answer
        except NotImplementedError as lacking:
            name = re.search(r"for '([^']+)'|filter '?([\w:.-]+)'?", str(lacking))
            error = (("InvalidParameterValue", f"The filter '{name[1] or name[2]}' is invalid") if name
                     else ("InvalidAction", f"The lab does not know this: {lacking}"))
            return self.serialized(ActionResult(EC2ClientError(*error)))
        except EC2ClientError as refused:
            return self.serialized(ActionResult(refused))

    def terminate_instances(self) -> ActionResult:
        """moto says `shutting-down` of an instance that is long gone; EC2 says `terminated`."""
        answer = super().terminate_instances()
        for change in answer.result["TerminatingInstances"]:
            change["CurrentState"] = copy.copy(self.ec2_backend.get_instance(change["InstanceId"])._state)
        return answer

    def _forget(self, action: str) -> None:
        """A call that may change an instance drops its kept XML; one that names no instance drops all of it."""
        if action.startswith(READS):
            return
        named = re.findall(r"\bi-[0-9a-f]{17}\b", json.dumps(self.params, default=str))
        for iid in named or list(LAB.xml):
            LAB.xml.pop(iid, None)

    def serialized(self, action_result: ActionResult) -> Any:
        status, headers, body = super().serialized(action_result)
        return HTTP_STATUS.get(getattr(action_result.result, "code", None), status), headers, body
