"""Checks AWS Signature Version 4, from the bytes that came in.

moto's own check encodes the form again before it hashes it, which only fits clients that encode as botocore does.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Any
from urllib.parse import parse_qsl, quote

HEADER = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request,\s*"
                    r"SignedHeaders=([^,\s]+),\s*Signature=([0-9a-f]{64})")


def header(environ: dict[str, Any], name: str) -> str:
    key = name.upper().replace("-", "_")
    return environ.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key, "")


def key_of(environ: dict[str, Any]) -> tuple[str | None, str | None]:
    """(access key, service) that the request claims, or Nones."""
    found = HEADER.match(environ.get("HTTP_AUTHORIZATION", ""))
    return (found[1], found[4].lower()) if found else (None, None)


def holds(environ: dict[str, Any], body: bytes, secret: str) -> bool:
    found = HEADER.match(environ.get("HTTP_AUTHORIZATION", ""))
    if not found:
        return False
    _, date, region, service, names, signature = found.groups()
    digest = hashlib.sha256(body).hexdigest()
    claimed = header(environ, "x-amz-content-sha256")
    if claimed and claimed not in (digest, "UNSIGNED-PAYLOAD"):
        return False
    query = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~"))
                   for k, v in parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    canonical = "\n".join([
        environ["REQUEST_METHOD"], quote(environ.get("PATH_INFO") or "/", safe="/-_.~"), "&".join(f"{k}={v}" for k, v in query),
        *(f"{n}:{' '.join(header(environ, n).split())}" for n in names.split(";")), "", names, claimed or digest])
    scope = f"{date}/{region}/{service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", header(environ, "x-amz-date"), scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + secret).encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), signature)
