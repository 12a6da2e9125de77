"""`python -m ec2` as the lab starts it: its first line, the hook, its logs, its end. And bad control bodies."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from conftest import Cloud, wait

E2E = pathlib.Path(__file__).resolve().parents[2]
HOOK = """#!/bin/sh
# $1 instance, $2 boot or end, $3 id
cat > "$OUT/$3.$2.json"
echo "$2 start" >> "$OUT/$3.order"
echo "said by $2" >&2
[ -e "$OUT/fail" ] && exit 7
sleep 0.3
[ "$2" = boot ] && python3 -c "
import json, urllib.request
url = open('$OUT/url').read() + '/_lab/instances/$3/state'
urllib.request.urlopen(urllib.request.Request(url, json.dumps({'state': 'running'}).encode(), method='POST'))"
echo "$2 end" >> "$OUT/$3.order"
exit 0
"""


@pytest.fixture
def process(tmp_path):
    """(cloud, folder) of a lab of its own, with a hook."""
    hook = tmp_path / "hook"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    child = subprocess.Popen([sys.executable, "-m", "ec2", "--bind", "127.0.0.1", "--port", "0", "--instance-hook", str(hook),
                              "--state-dir", str(tmp_path)], cwd=E2E, env={**os.environ, "OUT": str(tmp_path)},
                             stdout=subprocess.PIPE, text=True)
    try:
        url = child.stdout.readline().split()[1]
        (tmp_path / "url").write_text(url)
        yield Cloud(url), tmp_path
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
    finally:
        child.kill()


def test_hook(process):
    cloud, out = process
    iid = cloud.one(SubnetId=cloud.world["subnets"]["us-east-1c"])  # answered before the hook is done
    assert cloud.state(iid) == "pending"
    cloud.ec2.terminate_instances(InstanceIds=[iid])
    assert wait(lambda: cloud.state(iid) == "terminated")  # `end` exits 0
    assert (out / f"{iid}.order").read_text().split("\n")[:4] == ["boot start", "boot end", "end start", "end end"]
    event = json.loads((out / f"{iid}.boot.json").read_text())
    assert event["id"] == iid and event["zone"] == "us-east-1c" and event["ip"].startswith("10.77.")
    assert json.loads((out / f"{iid}.end.json").read_text())["reason"] == "Client.UserInitiatedShutdown"
    assert cloud.get(f"instances/{iid}")["running"] is None  # it was told to end before it could report
    log = (out / "hooks" / f"{iid}.log").read_text()
    assert "said by boot" in log and "said by end" in log and "boot: exit 0" in log

    iid = cloud.one()
    assert wait(lambda: cloud.state(iid) == "running")

    (out / "fail").touch()
    iid = cloud.one()
    log = out / "hooks" / f"{iid}.log"
    assert wait(lambda: log.exists() and "boot: exit 7" in log.read_text())
    assert cloud.state(iid) == "pending"
    cloud.ec2.terminate_instances(InstanceIds=[iid])
    assert wait(lambda: "end: exit 7" in log.read_text())
    assert cloud.state(iid) == "shutting-down"


def test_control_says_what_is_wrong(cloud):
    assert cloud.get("health") == {"ok": True}
    iid = cloud.one()
    for method, path, body, code, words in (
            ("GET", "nothing", None, 404, "not found"), ("GET", "instances/i-none", None, 404, "i-none"),
            ("POST", f"instances/{iid}/state", {"state": "happy"}, 400, "state must be"), ("POST", f"instances/{iid}/dance", {}, 404, "dance"),
            ("POST", "faults", {"kind": "fire"}, 400, "kind must be one of"), ("POST", "faults", {"kind": "lag"}, 400, "seconds"),
            ("POST", "faults", {"kind": "capacity", "typ": "x"}, 400, "typ"), ("POST", "faults", {"kind": "quota", "market": "spot"}, 400, "vcpus"),
            ("DELETE", "faults/999", None, 404, "999"), ("POST", "config", {"boot": 1}, 400, "no such setting: boot"),
            ("POST", "users", {"name": "x"}, 400, "missing 'policy'"), ("DELETE", "users/nobody", None, 404, "nobody"),
            ("POST", f"instances/{iid}/interrupt", {}, 400, "not a live spot instance")):
        got = cloud.status(method, path, body)
        assert got[0] == code and words in got[1], (method, path, got)


def test_fault_rows_one_by_one(cloud):
    row = cloud.fault("lag", seconds=5)
    cloud.fault("capacity", available=0)
    assert [r["kind"] for r in cloud.get("faults")] == ["lag", "capacity"]
    assert [r["kind"] for r in cloud.call("DELETE", f"faults/{row['id']}")] == ["capacity"]
    assert cloud.call("DELETE", "faults") == [] == cloud.get("faults")
    assert cloud.post("config", {"boot_seconds": 3})["boot_seconds"] == 3
