"""From pending to gone: states, lag, filters, what is kept between calls."""

import datetime

from conftest import TYPE, error, tags, wait


def test_runs_and_ends_by_itself_without_a_hook(cloud):
    iid = cloud.one()
    assert wait(lambda: cloud.state(iid) == "running")
    cloud.ec2.terminate_instances(InstanceIds=[iid])
    assert wait(lambda: cloud.state(iid) == "terminated")
    assert [e["event"] for e in cloud.get("events")] == ["boot", "end"]


def test_states_and_the_event(held):
    iid = held.one(TagSpecifications=tags(claim="c"), InstanceType="g6.12xlarge", SubnetId=held.world["subnets"]["us-east-1b"])
    assert held.state(iid) == "pending"
    e = held.get("events")[0]
    assert (e["event"], e["id"], e["type"], e["gpus"], e["zone"], e["market"]) == ("boot", iid, "g6.12xlarge", 4, "us-east-1b", "on-demand")
    assert e["ip"].startswith("10.77.") and e["private_dns"] == f"ip-{e['ip'].replace('.', '-')}.ec2.internal"
    assert e["tags"] == {"claim": "c"} and e["account"] == "123456789012" and e["region"] == "us-east-1"
    assert e["faults"] == {"no_join": False, "no_gpu": False, "slow_boot_seconds": 0, "keep_volume": False}
    held.post(f"instances/{iid}/state", {"state": "running"})
    assert held.state(iid) == "running"
    assert held.ec2.describe_instance_status(InstanceIds=[iid])["InstanceStatuses"][0]["InstanceState"]["Name"] == "running"
    gone = held.ec2.terminate_instances(InstanceIds=[iid])["TerminatingInstances"][0]
    assert (gone["PreviousState"]["Name"], gone["CurrentState"]["Name"]) == ("running", "shutting-down")
    held.ec2.terminate_instances(InstanceIds=[iid])  # again: no second event
    assert held.state(iid) == "shutting-down"
    held.post(f"instances/{iid}/state", {"state": "terminated"})
    i = held.instance(iid)
    assert i["State"]["Name"] == "terminated" and i["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert [e["event"] for e in held.get("events")] == ["boot", "end"] and held.get("events?after=1")[0]["event"] == "end"
    held.post(f"instances/{iid}/state", {"state": "running"})
    assert held.state(iid) == "terminated"  # never backwards
    held.post("clock", {"advance": 3700})
    assert error(held.ec2.describe_instances, InstanceIds=[iid]) == "InvalidInstanceID.NotFound"  # EC2 forgets after an hour


def test_end_by_user_keeps_its_reason(cloud):
    iid = cloud.one()
    cloud.ec2.terminate_instances(InstanceIds=[iid])
    assert wait(lambda: cloud.state(iid) == "terminated")
    assert cloud.instance(iid)["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert cloud.instance(iid)["StateTransitionReason"].startswith("User initiated (")
    again = cloud.ec2.terminate_instances(InstanceIds=[iid])["TerminatingInstances"][0]
    assert (again["PreviousState"]["Name"], again["CurrentState"]["Name"]) == ("terminated", "terminated")


def test_shutdown_from_inside(held):
    """What an instance's own dead-man timer does, with both shutdown behaviours."""
    ends, stops = held.one(InstanceInitiatedShutdownBehavior="terminate"), held.one()
    for iid in (ends, stops):
        held.post(f"instances/{iid}/state", {"state": "running"})
        held.post(f"instances/{iid}/state", {"state": "terminated", "reason": "Client.InstanceInitiatedShutdown"})
    assert held.state(ends) == "terminated"
    assert held.instance(ends)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert held.state(stops) == "stopped"  # EC2's default
    assert [e["event"] for e in held.get("events")] == ["boot", "boot"]  # it ended by itself: nothing to end
    held.ec2.terminate_instances(InstanceIds=[stops])
    assert held.state(stops) == "shutting-down"


def test_kill(held):
    iid = held.one()
    held.post(f"instances/{iid}/kill")
    assert held.instance(iid)["StateReason"]["Code"] == "Server.InternalError" and held.get("events")[-1]["event"] == "end"


def test_one_bad_id_fails_the_whole_call(held):
    iid = held.one()
    assert error(held.ec2.terminate_instances, InstanceIds=[iid, "i-0123456789abcdef0"]) == "InvalidInstanceID.NotFound"
    assert error(held.ec2.describe_instances, InstanceIds=[iid, "i-0123456789abcdef0"]) == "InvalidInstanceID.NotFound"
    assert held.state(iid) == "pending"


def test_lag(held):
    held.fault("lag", seconds=30)
    iid = held.one(TagSpecifications=tags(lag="l1"))

    def by_tag():
        return held.ec2.describe_instances(Filters=[{"Name": "tag:lag", "Values": ["l1"]}])["Reservations"]

    assert error(held.ec2.describe_instances, InstanceIds=[iid]) == "InvalidInstanceID.NotFound" and not by_tag()
    assert error(held.ec2.describe_instance_status, InstanceIds=[iid]) == "InvalidInstanceID.NotFound"
    held.post("clock", {"advance": 31})
    assert by_tag() and held.state(iid) == "pending"
    hidden = held.one()
    held.call("DELETE", "faults")
    assert held.state(hidden) == "pending"


def test_filters(held):
    i = held.run(spot=True, ClientToken="f-1")[0]
    iid = i["InstanceId"]
    held.run(ClientToken="f-2", SubnetId=held.world["subnets"]["us-east-1b"])
    shown = held.ec2.describe_instances(InstanceIds=[iid])["Reservations"][0]
    stamp = shown["Instances"][0]["LaunchTime"].astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    both = ("launch-time", "instance-state-code")
    for name, value in (("client-token", "f-1"), ("instance-lifecycle", "spot"), ("reservation-id", shown["ReservationId"]),
                        ("spot-instance-request-id", i["SpotInstanceRequestId"]), ("launch-time", stamp), ("instance-state-code", "0"),
                        ("private-dns-name", i["PrivateDnsName"]), ("availability-zone", "us-east-1a")):
        got = held.ec2.describe_instances(Filters=[{"Name": name, "Values": [value]}, {"Name": "instance-state-name", "Values": ["pending"]}])
        ids = [x["InstanceId"] for r in got["Reservations"] for x in r["Instances"]]
        assert iid in ids and (len(ids) == 1 or name in both), name
    assert error(held.ec2.describe_instances, Filters=[{"Name": "nonsense", "Values": ["x"]}]) == "InvalidParameterValue"
    assert error(held.ec2.describe_spot_instance_requests, Filters=[{"Name": "nonsense", "Values": ["x"]}]) == "InvalidParameterValue"


def test_pages(held):
    held.run(MinCount=1, MaxCount=1), held.run(), held.run()
    pages = list(held.ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 2}))
    assert [len(p["Reservations"]) for p in pages] == [2, 1]


def test_kept_answers_stay_right(held):
    a, b = (held.one(TagSpecifications=tags(k="<&>")) for _ in "ab")

    def found():
        rs = held.ec2.describe_instances(Filters=[{"Name": "tag:k", "Values": ["<&>"]}])["Reservations"]
        return {i["InstanceId"]: i for r in rs for i in r["Instances"]}

    assert set(found()) == {a, b}
    held.ec2.create_tags(Resources=[a], Tags=[{"Key": "new", "Value": "1"}])
    held.ec2.modify_instance_attribute(InstanceId=b, EbsOptimized={"Value": True})
    held.post(f"instances/{b}/state", {"state": "running"})
    now = found()
    assert {"Key": "new", "Value": "1"} in now[a]["Tags"] and now[b]["EbsOptimized"] and now[b]["State"]["Name"] == "running"
    assert {"Key": "k", "Value": "<&>"} in now[a]["Tags"] and now[a]["InstanceType"] == TYPE


def test_throttle(held):
    held.fault("throttle", action="DescribeInstances", rate=2, burst=3)
    for _ in range(3):
        held.ec2.describe_instances()
    assert error(held.ec2.describe_instances) == "RequestLimitExceeded"
    held.ec2.describe_subnets()  # other actions have their own bucket
    held.client(attempts=5).describe_instances()  # the SDK's own retry gets through
    held.call("DELETE", "faults")
    held.fault("throttle", action="*", rate=0.001, burst=1)
    held.ec2.describe_subnets(), held.ec2.describe_vpcs()
    assert error(held.ec2.describe_vpcs) == "RequestLimitExceeded"


def test_node_faults(held):
    held.fault("node", no_join=True, type="g6.*", zone="us-east-1a", times=1)
    held.fault("node", slow_boot_seconds=20, market="spot")
    held.fault("node", no_gpu=True, type="p5.*")
    held.one(spot=True), held.one(spot=True), held.one()
    assert [e["faults"] for e in held.get("events")] == [
        {"no_join": True, "no_gpu": False, "slow_boot_seconds": 20, "keep_volume": False},
        {"no_join": False, "no_gpu": False, "slow_boot_seconds": 20, "keep_volume": False},
        {"no_join": False, "no_gpu": False, "slow_boot_seconds": 0, "keep_volume": False}]


def test_console(held):
    iid = held.one()
    assert "Output" not in held.ec2.get_console_output(InstanceId=iid) or not held.ec2.get_console_output(InstanceId=iid)["Output"]
    held.post(f"instances/{iid}/console", {"text": "kubelet: no route\n"})
    held.post(f"instances/{iid}/console", {"append": "x <&> ü\n"})
    assert held.ec2.get_console_output(InstanceId=iid)["Output"] == "kubelet: no route\nx <&> ü\n"
    assert held.get(f"instances/{iid}/console")["text"].startswith("kubelet")
    assert error(held.ec2.get_console_output, InstanceId="i-0123456789abcdef0") == "InvalidInstanceID.NotFound"


def test_console_of_the_instance_itself(held, tmp_path):
    from ec2.state import LAB  # the option of the command line

    LAB.console_log = str(tmp_path / "{id}.log")
    try:
        iid = held.one()
        assert not held.ec2.get_console_output(InstanceId=iid).get("Output")
        (tmp_path / f"{iid}.log").write_bytes(b"x" * 70_000 + b"\xff kubelet: no route\n")
        assert held.ec2.get_console_output(InstanceId=iid, Latest=True)["Output"].endswith("x\ufffd kubelet: no route\n")
        assert len(held.ec2.get_console_output(InstanceId=iid)["Output"]) < 65_537
        held.post(f"instances/{iid}/console", {"text": "told"})
        assert held.ec2.get_console_output(InstanceId=iid)["Output"] == "told"
    finally:
        LAB.console_log = None


def volumes(held, **found):
    return held.ec2.describe_volumes(Filters=[{"Name": "tag:owner", "Values": ["lab"]}, *(
        {"Name": k, "Values": [v]} for k, v in found.items())])["Volumes"]


def test_volumes_go_with_their_instance(held):
    disk = [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20, "VolumeType": "gp3", "DeleteOnTermination": True}}]
    template = held.template(BlockDeviceMappings=disk)
    over = [{"InstanceType": TYPE, "SubnetId": held.world["subnets"]["us-east-1a"]}]

    def launch():
        return held.fleet(template, over, TagSpecifications=tags("volume", owner="lab"))["Instances"][0]["InstanceIds"][0]

    iid = launch()
    [volume] = volumes(held)  # the template's, and no other
    assert (volume["Size"], volume["State"]) == (20, "in-use")
    held.post(f"instances/{iid}/state", {"state": "terminated"})
    assert not volumes(held)

    held.fault("node", keep_volume=True)
    iid = launch()
    held.post(f"instances/{iid}/state", {"state": "terminated"})
    [left] = volumes(held, status="available")
    held.ec2.delete_volume(VolumeId=left["VolumeId"])
    assert not volumes(held)
    assert error(held.ec2.delete_volume, VolumeId=left["VolumeId"]) == "InvalidVolume.NotFound"
