"""Who calls, and whether they may: the lab's own key always, users made here by their policy, nobody else."""

from __future__ import annotations

import json
import threading
from typing import Any

from moto.core.authorization import ActionAuthenticatorMixin
from moto.core.exceptions import (
    AccessDeniedError,
    InvalidClientTokenIdError,
    JsonRESTError,
    SignatureDoesNotMatchError,
)
from moto.ec2.exceptions import EC2ClientError
from moto.iam.access_control import CreateAccessKeyFailure, create_access_key
from moto.iam.models import iam_backends

from . import ACCOUNT, REGION, authz, signature

ROOT_KEY, ROOT_SECRET = "lab", "lab-secret"
#: Services that speak JSON; they want their errors in it.
JSON_SERVICES = ("ssm", "sqs", "pricing", "events")

#: The request that this thread is serving, set by server.py: environ, body.
current = threading.local()


class Refused(Exception):
    """Not to be let in; `code` and `message` as AWS says them, for services that moto does not serve."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def authenticate() -> Any:
    """moto's access key object of the caller, or None for the lab's own key, whose signature is not looked at."""
    key, _ = signature.key_of(current.environ)
    if key == ROOT_KEY:
        return None
    if key is None:
        raise Refused("MissingAuthenticationToken", "Request is missing Authentication Token")
    token = {"X-Amz-Security-Token": t} if (t := current.environ.get("HTTP_X_AMZ_SECURITY_TOKEN")) else {}
    try:
        found = create_access_key(ACCOUNT, "aws", key, token)
    except CreateAccessKeyFailure:
        raise Refused("InvalidClientTokenId", "The security token included in the request is invalid.") from None
    if not signature.holds(current.environ, current.body, found.create_credentials().secret_key):
        raise Refused("SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
    return found


def resource_of(service: str, action: str) -> str:
    """The resource of a call to a JSON service, as its policy names it."""
    try:
        asked = json.loads(current.body or b"{}")
    except ValueError:
        asked = {}
    if service == "sqs" and (asked.get("QueueUrl") or asked.get("QueueName")):
        return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{asked.get('QueueName') or asked['QueueUrl'].split('/')[-1]}"
    if service == "ssm" and (asked.get("Name") or asked.get("Names") or asked.get("Path")):
        name = asked.get("Name") or asked.get("Path") or asked["Names"][0]
        owner = "" if name.startswith("/aws/service/") else ACCOUNT  # public parameters belong to nobody
        return f"arn:aws:ssm:{REGION}:{owner}:parameter/{name.lstrip('/')}"
    return "*"


#: Calls that IAM knows by another name.
SAME_RIGHT = {"DeleteMessageBatch": "DeleteMessage", "SendMessageBatch": "SendMessage",
              "ChangeMessageVisibilityBatch": "ChangeMessageVisibility"}


def authorize(service: str, action: str, response: Any = None) -> None:
    """Raises Refused unless the caller of the current request may do this."""
    key = authenticate()
    if key is None or (service, action) == ("sts", "GetCallerIdentity"):
        return
    rules = authz.statements(key)
    subjects = (authz.Ec2Call(response, action).subjects() if service == "ec2"
                else [(f"{service}:{SAME_RIGHT.get(action, action)}", resource_of(service, action), {"aws:requestedregion": REGION})])
    for subject in subjects:
        if not authz.allowed(rules, subject):
            code = {"ec2": "UnauthorizedOperation"}.get(service, "AccessDeniedException" if service in JSON_SERVICES else "AccessDenied")
            raise Refused(code, f"You are not authorized to perform this operation. User: {key.arn} is not authorized to perform: "
                                f"{subject[0]} on resource: {subject[1]}")


def _authorize_in_moto(response: Any, iam_request_cls: type, resource: str = "*") -> None:
    """In place of moto's check, which counts calls until it starts and knows neither conditions nor ARNs."""
    _, service = signature.key_of(current.environ)
    service = service or response.service_name
    action = response._get_action()
    try:
        authorize(service, action[0] if isinstance(action, list) else action, response)
    except Refused as no:
        if service == "ec2":
            if no.code != "UnauthorizedOperation":  # moto's AuthFailureError has an envelope that strict clients cannot read
                raise EC2ClientError("AuthFailure", "AWS was not able to validate the provided access credentials") from None
            raise EC2ClientError(no.code, no.message) from None
        if service in JSON_SERVICES:
            raise JsonRESTError(no.code, no.message) from None
        if no.code == "InvalidClientTokenId":
            raise InvalidClientTokenIdError from None
        if no.code == "SignatureDoesNotMatch":
            raise SignatureDoesNotMatchError from None
        raise AccessDeniedError(no.message, f"{service}:{action}") from None


def install() -> None:
    ActionAuthenticatorMixin._authenticate_and_authorize_action = _authorize_in_moto


def put_user(name: str, policy: dict[str, Any]) -> dict[str, str]:
    """Makes or changes a user with this one policy. The key stays the same from call to call."""
    iam = iam_backends[ACCOUNT]["aws"]
    if name not in iam.users:
        iam.create_user(REGION, name)
        iam.create_access_key(name)
    try:
        iam.put_user_policy(name, "lab", json.dumps(policy))
    except Exception as bad:
        raise ValueError(f"IAM refuses the policy: {getattr(bad, 'message', bad)}") from None
    user = iam.users[name]
    key = user.access_keys[0]
    return {"name": name, "arn": user.arn, "access_key": key.access_key_id, "secret_key": key.secret_access_key}


def users() -> list[dict[str, str]]:
    return [{"name": u.name, "access_key": u.access_keys[0].access_key_id}
            for u in iam_backends[ACCOUNT]["aws"].users.values() if u.access_keys]


def delete_user(name: str) -> None:
    """KeyError if there is none."""
    iam = iam_backends[ACCOUNT]["aws"]
    user = iam.users[name]
    for key in list(user.access_keys):
        iam.delete_access_key(key.access_key_id, name)
    for policy in list(user.policies):
        iam.delete_user_policy(name, policy)
    iam.delete_user(name)
