"""ClientToken: the same token with the same parameters answers what it answered the first time, whatever became of it.

Unlike EC2 a token never expires here. A refused launch is not remembered, unless `remember_failures` says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from moto.ec2.exceptions import EC2ClientError

from .state import LAB


def once(scope: tuple[str, ...], params: dict[str, Any], call: Callable[[], Any]) -> Any:
    """Runs `call` at most once for the ClientToken in `params` within `scope`. Callers hold the lab's lock."""
    token = params.get("ClientToken")
    if not token:
        return call()
    key = (*scope, token)
    asked = json.dumps({k: v for k, v in params.items() if k != "ClientToken"}, sort_keys=True, default=str)
    if key in LAB.tokens:
        before, result = LAB.tokens[key]
        if before != asked:
            raise EC2ClientError("IdempotentParameterMismatch", f"Arguments on this idempotent request are inconsistent with "
                                                                f"arguments used in previous request(s) with token {token}.")
        if isinstance(result, Exception):
            raise result
        return result
    try:
        result = call()
    except EC2ClientError as refused:
        if LAB.config["remember_failures"]:
            LAB.tokens[key] = (asked, refused)
        raise
    LAB.tokens[key] = (asked, result)
    return result
