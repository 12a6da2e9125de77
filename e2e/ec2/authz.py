"""IAM policy evaluation with conditions and resource ARNs; moto's own ignores both.

Which resources a call touches follows the Service Authorization Reference as Karpenter's published policy uses it. Not
covered: numeric, date and IP operators, permission boundaries, service control policies, resource-based policies.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

Context = dict[str, Any]
#: (action, resource ARN, condition context); each must be allowed.
Subject = tuple[str, str, Context]

KINDS = {"i": "instance", "lt": "launch-template", "vol": "volume", "fleet": "fleet", "sir": "spot-instances-request",
         "subnet": "subnet", "sg": "security-group", "vpc": "vpc", "eni": "network-interface"}


def many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(access_key: Any) -> list[dict[str, Any]]:
    """All statements of one of moto's access keys: its user's or role's policies."""
    found = []
    for policy in access_key.collect_policies():
        if isinstance(policy, str):
            text = policy
        elif isinstance(policy, dict):
            text = policy["policy_document"]
        else:
            text = next(v.document for v in policy.versions if v.is_default)
        found += many(json.loads(text)["Statement"])
    return found


def holds(block: dict[str, dict[str, Any]], context: Context) -> bool:
    """Whether a Condition block is true."""
    for operator, keys in block.items():
        scope, _, op = operator.rpartition(":")
        if_exists, op = op.endswith("IfExists"), op.removesuffix("IfExists")
        negated = "Not" in op
        for key, wanted in keys.items():
            actual = context.get(key.lower())
            values = [str(w).lower() if op == "Bool" else str(w) for w in many(wanted)]
            if op == "Null":
                true = (actual is None) == (values[0].lower() == "true")
            elif actual is None:
                true = if_exists or negated or scope == "ForAllValues"
            else:
                hits = [_one(op, v, values) != negated for v in many(actual)]
                true = any(hits) if scope == "ForAnyValue" else all(hits)
            if not true:
                return False
    return True


def _one(op: str, value: str, wanted: list[str]) -> bool:
    if "Like" in op or op.startswith("Arn"):
        return any(fnmatchcase(value, w) for w in wanted)
    if "IgnoreCase" in op:
        return value.lower() in [w.lower() for w in wanted]
    return value in wanted


def _names(patterns: Any, value: str) -> bool:
    return any(fnmatchcase(value.lower(), p.lower()) for p in many(patterns))


def allowed(rules: list[dict[str, Any]], subject: Subject) -> bool:
    """An explicit Deny wins; without an Allow the answer is no."""
    action, arn, context = subject
    yes = False
    for s in rules:
        named = _names(s["Action"], action) if "Action" in s else not _names(s["NotAction"], action)
        there = (any(fnmatchcase(arn, r) for r in many(s["Resource"])) if "Resource" in s
                 else not any(fnmatchcase(arn, r) for r in many(s.get("NotResource", []))))
        if named and there and holds(s.get("Condition", {}), context):
            if s["Effect"] == "Deny":
                return False
            yes = True
    return yes


def _given(specs: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    tags: dict[str, dict[str, str]] = {}
    for spec in specs:
        for t in spec.get("Tags", []):
            tags.setdefault(spec["ResourceType"], {})[t["Key"]] = t.get("Value", "")
    return tags


def _requested(tags: dict[str, str]) -> Context:
    found: Context = {f"aws:requesttag/{k.lower()}": v for k, v in tags.items()}
    if tags:
        found["aws:tagkeys"] = list(tags)
    return found


class Ec2Call:
    """One EC2 request as IAM sees it."""

    def __init__(self, response: Any, name: str) -> None:
        self.p, self.backend, self.name = response.params, response.ec2_backend, name
        self.account, self.region, self.partition = response.current_account, response.region, response.partition
        self.common: Context = {"aws:requestedregion": self.region, "ec2:region": self.region}

    def arn(self, kind: str, rid: str = "*") -> str:
        owner = "" if kind in ("image", "snapshot") else self.account
        return f"arn:{self.partition}:ec2:{self.region}:{owner}:{kind}/{rid}"

    def existing(self, rid: str) -> tuple[str, Context]:
        context = dict(self.common)
        for k, v in self.backend.tags.get(rid, {}).items():
            context[f"aws:resourcetag/{k.lower()}"] = context[f"ec2:resourcetag/{k.lower()}"] = v
        return self.arn(KINDS.get(rid.split("-")[0], "*"), rid), context

    def subjects(self) -> Iterator[Subject]:
        p, action = self.p, f"ec2:{self.name}"
        if self.name in ("RunInstances", "CreateFleet"):
            yield from self._launch(action)
            return
        if self.name == "CreateLaunchTemplate":
            tags = _given(p.get("TagSpecifications") or [])
            yield from self._creation(action, ["launch-template"], tags, {})
            return
        ids = (p.get("InstanceIds") or p.get("FleetIds") or p.get("Resources")
               or [p[k] for k in ("InstanceId", "LaunchTemplateId", "VolumeId", "SubnetId", "GroupId") if p.get(k)])
        if not ids and p.get("LaunchTemplateName"):
            ids = [self.backend.launch_template_name_to_ids.get(p["LaunchTemplateName"], "lt-none")]
        if self.name.startswith("Describe") or not ids:
            yield action, "*", self.common
            return
        for rid in ids:
            arn, context = self.existing(rid)
            if self.name in ("CreateTags", "DeleteTags"):
                context.update(_requested({t["Key"]: t.get("Value", "") for t in p.get("Tags", [])}))
            yield action, arn, context

    def _creation(self, action: str, kinds: list[str], tags: dict[str, dict[str, str]], more: Context) -> Iterator[Subject]:
        """New resources of these kinds, and CreateTags for those that get tags."""
        for kind in kinds:
            context = {**self.common, **more, **_requested(tags.get(kind, {}))}
            yield action, self.arn(kind), context
            if tags.get(kind):
                yield "ec2:CreateTags", self.arn(kind), {**context, "ec2:createaction": action.split(":")[1]}

    def _launch(self, action: str) -> Iterator[Subject]:
        """An instant fleet needs ec2:CreateFleet on itself and ec2:RunInstances on what it launches."""
        p = self.p
        if self.name == "RunInstances":
            launches = [(p.get("LaunchTemplate"), [{k: p[k] for k in ("InstanceType", "ImageId", "SubnetId") if p.get(k)}])]
            spot = (p.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"
        else:
            launches = [(c.get("LaunchTemplateSpecification"), c.get("Overrides") or [{}]) for c in p.get("LaunchTemplateConfigs") or []]
            target = p.get("TargetCapacitySpecification") or {}
            spot = target.get("DefaultTargetCapacityType") == "spot" or bool(target.get("SpotTargetCapacity"))
        given = _given(p.get("TagSpecifications") or [])
        if self.name == "CreateFleet":
            yield from self._creation(action, ["fleet"], given, {})
        for template, overrides in launches:
            version = self.backend.template_version(template) if template else None
            data = version.data if version else {}
            tags = _given([s for s in data.get("TagSpecifications") or [] if s["ResourceType"] != "launch-template"])
            for kind, mine in given.items():
                tags[kind] = {**tags.get(kind, {}), **mine}
            if version:
                arn, context = self.existing(version.template.id)
                yield "ec2:RunInstances", arn, context
                if self.name == "CreateFleet":
                    yield action, arn, context
            for groups in (p.get("SecurityGroupIds"), data.get("SecurityGroupIds")):
                for group in groups or []:
                    yield ("ec2:RunInstances", *self.existing(group))
            for o in overrides:
                itype = o.get("InstanceType") or data.get("InstanceType")
                more = {"ec2:instancetype": itype} if itype else {}
                kinds = ["instance", "volume", "network-interface"] + (["spot-instances-request"] if spot else [])
                yield from self._creation("ec2:RunInstances", kinds, tags, more)
                if image := o.get("ImageId") or data.get("ImageId"):
                    yield "ec2:RunInstances", self.arn("image", image), dict(self.common)
                if subnet := o.get("SubnetId") or data.get("SubnetId"):
                    yield ("ec2:RunInstances", *self.existing(subnet))
            if profile := p.get("IamInstanceProfile") or data.get("IamInstanceProfile"):
                name = profile.get("Name") or profile.get("Arn", "").split("/")[-1]
                # The profile's role; in the lab it has the profile's name.
                yield ("iam:PassRole", f"arn:{self.partition}:iam::{self.account}:role/{name}",
                       {"iam:passedtoservice": "ec2.amazonaws.com"})
