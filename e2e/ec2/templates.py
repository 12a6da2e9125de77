"""Launch templates where moto differs: idempotent creation, versions made from a source, filters and pages."""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses._base_response import EC2BaseResponse
from moto.ec2.utils import parse_user_data

from .idempotency import once

#: Filters of DescribeLaunchTemplateVersions: how to read each from a version.
VERSION_FILTERS = {
    "image-id": lambda v: v.image_id, "instance-type": lambda v: v.instance_type,
    "is-default-version": lambda v: str(v.template.is_default(v)).lower(),
    "ebs-optimized": lambda v: str(bool(v.data.get("EbsOptimized"))).lower(),
    "iam-instance-profile": lambda v: (v.data.get("IamInstanceProfile") or {}).get("Name", ""),
}


class Templates(EC2BaseResponse):
    def create_launch_template(self) -> ActionResult:
        return once(("CreateLaunchTemplate", self.region), self.params, super().create_launch_template)

    def create_launch_template_version(self) -> ActionResult:
        return once(("CreateLaunchTemplateVersion", self.region), self.params, self._new_version)

    def _new_version(self) -> ActionResult:
        """moto keeps the user data as bare text, which it cannot launch, and ignores SourceVersion."""
        spec = {k: self._get_param(k) for k in ("LaunchTemplateId", "LaunchTemplateName") if self._get_param(k)}
        template = self.ec2_backend.template_version(spec).template
        data = dict(self._get_param("LaunchTemplateData") or {})
        if data.get("UserData") is not None:
            data["UserData"] = parse_user_data(data["UserData"])
        if source := self._get_param("SourceVersion"):
            old = self.ec2_backend.template_version({"LaunchTemplateId": template.id, "Version": source})
            data = {**copy.deepcopy(old.data), **data}
        self.error_on_dryrun()
        version = template.create_version(data, self._get_param("VersionDescription"))
        return ActionResult({"LaunchTemplateVersion": self._shown(version)})

    def describe_launch_template_versions(self) -> ActionResult:
        self.error_on_dryrun()
        spec = {k: self._get_param(k) for k in ("LaunchTemplateId", "LaunchTemplateName") if self._get_param(k)}
        asked = self._get_param("Versions", [])
        if spec:
            template = self.ec2_backend.template_version(spec).template
            low, high = self._get_int_param("MinVersion", 1), self._get_int_param("MaxVersion", len(template.versions))
            found = ([self.ec2_backend.template_version({"LaunchTemplateId": template.id, "Version": v}) for v in asked] if asked
                     else [v for v in template.versions if low <= v.number <= high])
        elif asked and set(asked) <= {"$Latest", "$Default"}:
            found = [t.get_version(v) for t in self.ec2_backend.launch_templates.values() for v in asked]
        else:
            raise EC2ClientError("MissingParameter" if not asked else "InvalidParameterValue",
                                 "Without a launch template, versions must be $Latest or $Default.")
        for name, values in self._filters_from_querystring().items():
            if name not in VERSION_FILTERS:
                raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")
            found = [v for v in found if any(fnmatchcase(str(VERSION_FILTERS[name](v)), w) for w in values)]
        first, count = int(self._get_param("NextToken") or 0), self._get_int_param("MaxResults", 200)
        more = str(first + count) if len(found) > first + count else None
        return ActionResult({"LaunchTemplateVersions": [self._shown(v) for v in found[first:first + count]], "NextToken": more})

    def _shown(self, version: Any) -> dict[str, Any]:
        template = version.template
        # moto adds the template's own tags to what it will launch; EC2 does not.
        data = {**version.data, "TagSpecifications": [t for t in version.data.get("TagSpecifications") or []
                                                      if t["ResourceType"] != "launch-template"]}
        return {"CreateTime": version.create_time, "CreatedBy": f"arn:{self.partition}:iam::{self.current_account}:root",
                "DefaultVersion": template.is_default(version), "LaunchTemplateData": {k: v for k, v in data.items() if v not in (None, [])},
                "LaunchTemplateId": template.id, "LaunchTemplateName": template.name,
                "VersionDescription": version.description, "VersionNumber": version.number}
