"""Spot prices, interruption, and the bill."""

import datetime
import json
import time
import urllib.error

import pytest
from conftest import TYPE, TYPE2, error, wait


def request(cloud, iid):
    rid = cloud.get(f"instances/{iid}")["spot_request"]
    return cloud.ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[rid])["SpotInstanceRequests"][0]


def test_interruption(held):
    iid = held.one(spot=True)
    held.post(f"instances/{iid}/state", {"state": "running"})
    assert (request(held, iid)["State"], request(held, iid)["Status"]["Code"]) == ("active", "fulfilled")
    held.messages()
    path = f"imds/{iid}/latest/meta-data/spot/instance-action"
    with pytest.raises(urllib.error.HTTPError):
        held.get(path, raw=True)
    held.post(f"instances/{iid}/interrupt", {"notice": 120})
    [m] = held.messages()
    assert m["detail-type"] == "EC2 Spot Instance Interruption Warning" and m["source"] == "aws.ec2"
    assert m["detail"] == {"instance-id": iid, "instance-action": "terminate"}
    assert m["resources"] == [f"arn:aws:ec2:us-east-1a:instance/{iid}"]
    assert json.loads(held.get(path, raw=True))["action"] == "terminate"
    assert held.state(iid) == "running"  # it still has its two minutes
    # Closed, while the instance runs: as the user guide says of instances that end when they are interrupted.
    assert (request(held, iid)["State"], request(held, iid)["Status"]["Code"]) == ("closed", "instance-terminated-no-capacity")
    marked = held.ec2.describe_spot_instance_requests(Filters=[
        {"Name": "status-code", "Values": ["marked-for-termination", "instance-terminated-no-capacity"]}, {"Name": "instance-id", "Values": [iid]}])
    assert [r["InstanceId"] for r in marked["SpotInstanceRequests"]] == [iid]
    held.post("clock", {"advance": 119})
    assert held.state(iid) == "running"
    held.post("clock", {"advance": 2})
    assert wait(lambda: held.state(iid) == "shutting-down")
    assert [e["event"] for e in held.get("events")] == ["boot", "end"]
    held.post(f"instances/{iid}/state", {"state": "terminated"})
    assert (request(held, iid)["State"], request(held, iid)["Status"]["Code"]) == ("closed", "instance-terminated-no-capacity")
    assert [m["detail"]["state"] for m in held.messages()] == ["shutting-down", "terminated"]
    code, text = held.status("POST", f"instances/{iid}/interrupt", {})
    assert code == 400 and "not a live spot instance" in text


def test_the_other_code_of_an_interruption(held):
    iid = held.one(spot=True)
    held.post(f"instances/{iid}/interrupt", {"code": "marked-for-termination"})
    assert (request(held, iid)["State"], request(held, iid)["Status"]["Code"]) == ("active", "marked-for-termination")
    assert held.status("POST", f"instances/{iid}/interrupt", {"code": "tired"})[0] == 400


def test_interruption_of_a_fleets_instance(held):
    over = [{"InstanceType": TYPE, "SubnetId": held.world["subnets"]["us-east-1a"]}]
    iid = held.fleet(held.template(), over)["Instances"][0]["InstanceIds"][0]
    held.messages()
    held.post(f"instances/{iid}/interrupt", {"notice": 120})
    found = held.ec2.describe_spot_instance_requests(
        MaxResults=1000, Filters=[{"Name": "status-code", "Values": ["instance-terminated-no-capacity"]}])["SpotInstanceRequests"]
    assert [(r["InstanceId"], r["State"]) for r in found] == [(iid, "closed")]
    age = datetime.datetime.now(datetime.timezone.utc) - found[0]["Status"]["UpdateTime"]
    assert abs(age.total_seconds()) < 5
    assert [m["detail-type"] for m in held.messages()] == ["EC2 Spot Instance Interruption Warning"]
    held.ec2.terminate_instances(InstanceIds=[iid])


def test_reason_after_a_reclaim(cloud):
    iid = cloud.one(spot=True)
    cloud.post(f"instances/{iid}/interrupt", {"notice": 0})
    assert wait(lambda: cloud.state(iid) == "terminated")
    assert cloud.instance(iid)["StateReason"]["Code"] == "Server.SpotInstanceTermination"


def test_ended_by_user_before_the_reclaim(held):
    iid = held.one(spot=True)
    held.post(f"instances/{iid}/interrupt", {})
    held.ec2.terminate_instances(InstanceIds=[iid])
    assert (request(held, iid)["State"], request(held, iid)["Status"]["Code"]) == ("closed", "instance-terminated-by-user")
    held.post("clock", {"advance": 200})
    time.sleep(0.1)
    assert held.get(f"instances/{iid}")["reclaimed"] is False


def test_rebalance_recommendation(held):
    iid = held.one(spot=True)
    held.messages()
    held.post(f"instances/{iid}/rebalance")
    [m] = held.messages()
    assert m["detail-type"] == "EC2 Instance Rebalance Recommendation" and m["detail"] == {"instance-id": iid}
    assert "noticeTime" in held.get(f"imds/{iid}/latest/meta-data/events/recommendations/rebalance", raw=True)
    assert request(held, iid)["Status"]["Code"] == "fulfilled"


def test_missing_spot_request(held):
    assert error(held.ec2.describe_spot_instance_requests, SpotInstanceRequestIds=["sir-none"]) == "InvalidSpotInstanceRequestID.NotFound"


def test_prices_of_the_table(held):
    got = held.ec2.describe_spot_price_history(InstanceTypes=[TYPE], ProductDescriptions=["Linux/UNIX"],
                                               StartTime=datetime.datetime.now(datetime.timezone.utc))["SpotPriceHistory"]
    prices = {r["AvailabilityZone"]: r["SpotPrice"] for r in got}
    assert prices["us-east-1a"] == prices["us-east-1c"] == "0.389700" and got[0]["ProductDescription"] == "Linux/UNIX"
    every = held.ec2.get_paginator("describe_spot_price_history").paginate(StartTime=datetime.datetime.now(datetime.timezone.utc),
                                                                          PaginationConfig={"PageSize": 50})
    types = {r["InstanceType"] for page in every for r in page["SpotPriceHistory"]}
    assert {"p5.48xlarge", "p3.2xlarge", "g7e.2xlarge"} <= types and "g4dn.12xlarge" not in types  # no spot price in the table


def test_price_history(held):
    now = time.time()
    held.post("prices", [{"type": TYPE, "zone": "us-east-1a", "price": 0.3, "at": now - 7200},
                         {"type": TYPE, "zone": "us-east-1a", "price": 0.4, "at": now - 1800},
                         {"type": TYPE2, "zone": "us-east-1b", "price": 0.9, "at": now - 60}])

    def ask(zone="us-east-1a", **kw):
        return [r["SpotPrice"] for r in held.ec2.describe_spot_price_history(AvailabilityZone=zone, **kw)["SpotPriceHistory"]]

    def at(s):
        return datetime.datetime.fromtimestamp(now + s, datetime.timezone.utc)

    assert ask(InstanceTypes=[TYPE], StartTime=at(0)) == ["0.400000"]  # the price in force
    assert ask(InstanceTypes=[TYPE], StartTime=at(-3600)) == ["0.400000", "0.300000"]
    assert ask("us-east-1b", InstanceTypes=[TYPE2], StartTime=at(0)) == ["0.900000"]
    assert ask("us-east-1c", InstanceTypes=[TYPE2], StartTime=at(0)) == ["0.365100"]  # other zones keep theirs
    assert not ask(ProductDescriptions=["Windows"])
    held.fault("price", type=TYPE, price=0.7)
    assert ask("us-east-1c", InstanceTypes=[TYPE], StartTime=at(10)) == ["0.700000"]  # every zone
    held.call("DELETE", "faults")
    assert ask("us-east-1c", InstanceTypes=[TYPE], StartTime=at(10)) == ["0.389700"]


def test_bill(held):
    held.post("prices", [{"type": TYPE, "market": "on-demand", "price": 3.6}, {"type": TYPE, "zone": "us-east-1a", "price": 1.0}])
    od, spot, back, never = (held.one(spot=s) for s in (False, True, True, False))
    for i in (od, spot, back):
        held.post(f"instances/{i}/state", {"state": "running"})
    assert held.get("bill")["running_per_hour"] == pytest.approx(5.6)
    held.post("clock", {"advance": 10})
    held.ec2.terminate_instances(InstanceIds=[od, never])
    held.post(f"instances/{back}/interrupt", {"notice": 0})
    assert wait(lambda: held.state(back) == "shutting-down")
    held.post("prices", [{"type": TYPE, "zone": "us-east-1a", "price": 2.0}])
    held.post("clock", {"advance": 5390})
    bill = held.get("bill")
    rows = {r["id"]: r for r in bill["instances"]}
    assert rows[od]["seconds"] == 60 and rows[od]["cost"] == pytest.approx(0.06)  # 10 s used, 60 s billed
    assert rows[back]["free"] and rows[back]["cost"] == 0 and rows[never]["cost"] == 0
    assert 1.99 < rows[spot]["cost"] < 2.02  # an hour at 1.0, the price at its start, then half an hour at 2.0
    assert bill["total"] == pytest.approx(sum(r["cost"] for r in rows.values())) and bill["today"] <= bill["total"]


def test_reclaim_after_the_first_hour_is_billed(held):
    iid = held.one(spot=True)
    held.post(f"instances/{iid}/state", {"state": "running"})
    held.post("clock", {"advance": 3700})
    held.post(f"instances/{iid}/interrupt", {"notice": 0})
    assert wait(lambda: held.state(iid) == "shutting-down")
    [row] = held.get("bill")["instances"]
    assert not row["free"] and row["cost"] == pytest.approx(0.3897 * 3700 / 3600, rel=0.01)
