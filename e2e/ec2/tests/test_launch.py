"""RunInstances: tokens, capacity, prices, quotas, templates."""

import threading

from conftest import TYPE, TYPE2, error, tags, wait


def test_token_answers_the_original_instance(held):
    a = held.one(ClientToken="t1")
    assert held.one(ClientToken="t1") == a
    assert error(held.ec2.run_instances, **held.args(InstanceType=TYPE2, ClientToken="t1")) == "IdempotentParameterMismatch"
    assert len(held.get("instances")) == 1
    held.ec2.terminate_instances(InstanceIds=[a])
    held.post(f"instances/{a}/state", {"state": "terminated"})
    assert held.one(ClientToken="t1") == a and held.state(a) == "terminated"  # even though it is dead


def test_token_is_zonal_when_a_zone_is_named(held):
    s = held.world["subnets"]
    a = held.one(ClientToken="z", SubnetId=s["us-east-1a"])
    assert held.one(ClientToken="z", SubnetId=s["us-east-1b"]) != a
    assert held.one(ClientToken="z", SubnetId=s["us-east-1a"]) == a


def test_token_in_parallel(held):
    ids, ec2 = [], held.ec2
    ts = [threading.Thread(target=lambda: ids.append(held.run(by=ec2, ClientToken="p")[0]["InstanceId"])) for _ in range(12)]
    [t.start() for t in ts], [t.join() for t in ts]
    assert len(ids) == 12 and len(set(ids)) == 1


def test_lost_answer_then_retry(held):
    held.fault("call", action="RunInstances", when="after", code="InternalError")
    assert error(held.ec2.run_instances, **held.args(ClientToken="l")) == "InternalError"
    iid = held.one(ClientToken="l")
    assert [i["id"] for i in held.get("instances")] == [iid]


def test_refused_before_the_work(held):
    held.fault("call", action="Run.*", code="ServiceUnavailable", times=2)
    for _ in range(2):
        assert error(held.ec2.run_instances, **held.args()) == "ServiceUnavailable"
    held.one()
    assert [(c["action"], c["error"]) for c in held.get("calls") if c["service"] == "ec2"] == [("RunInstances", "ServiceUnavailable")] * 2 + [("RunInstances", None)]


def test_capacity_and_price(held):
    held.fault("capacity", type=TYPE, zone="us-east-1a", market="spot", available=1)
    held.post("prices", [{"type": TYPE, "zone": "us-east-1a", "price": 0.5}])
    assert error(held.ec2.run_instances, **held.args(spot=True, max_price="0.4")) == "SpotMaxPriceTooLow"
    i = held.run(spot=True, max_price="0.6")[0]
    assert i["InstanceLifecycle"] == "spot" and i["SpotInstanceRequestId"].startswith("sir-")
    assert error(held.ec2.run_instances, **held.args(spot=True)) == "InsufficientInstanceCapacity"
    assert held.one(spot=True, SubnetId=held.world["subnets"]["us-east-1b"])  # another zone is another pool
    assert "InstanceLifecycle" not in held.run()[0]
    held.ec2.terminate_instances(InstanceIds=[i["InstanceId"]])
    held.one(spot=True)  # the pool counts live instances


def test_max_count(held):
    held.fault("capacity", type="g6.*", available=3)
    assert len(held.run(MinCount=1, MaxCount=5)) == 3
    held.call("DELETE", "faults")
    assert len(held.run(MinCount=1, MaxCount=2)) == 2


def test_error_rows(held):
    held.fault("capacity", market="on-demand", error="InsufficientHostCapacity")
    assert error(held.ec2.run_instances, **held.args()) == "InsufficientHostCapacity"


def test_quotas(held):
    held.fault("quota", market="spot", family="G", vcpus=8)  # two g6.xlarge
    held.fault("quota", market="on-demand", instances=1)
    held.run(spot=True, MaxCount=2)
    assert error(held.ec2.run_instances, **held.args(spot=True)) == "MaxSpotInstanceCountExceeded"
    assert error(held.ec2.run_instances, **held.args(spot=True, InstanceType=TYPE2)) == "MaxSpotInstanceCountExceeded"  # same class
    held.one(spot=True, InstanceType="p3.2xlarge")  # another class
    held.one()
    assert error(held.ec2.run_instances, **held.args()) == "VcpuLimitExceeded"


def test_what_does_not_exist(held):
    assert error(held.ec2.run_instances, **held.args(ImageId="ami-0123456789abcdef0")) == "InvalidAMIID.NotFound"
    assert error(held.ec2.run_instances, **held.args(InstanceType="p4de.24xlarge")) == "Unsupported"  # not in us-east-1a
    assert error(held.ec2.run_instances, **held.args(SubnetId="subnet-1")) == "InvalidSubnetID.NotFound"
    assert error(held.ec2.run_instances, **held.args(LaunchTemplate={"LaunchTemplateName": "no"})) == "InvalidLaunchTemplateName.NotFoundException"
    assert error(held.ec2.run_instances, **held.args(IamInstanceProfile={"Name": "no"})) in ("NoSuchEntity", "InvalidParameterValue")
    assert error(held.ec2.run_instances, **held.args(DryRun=True)) == "DryRunOperation"
    assert not held.get("instances")


def test_template(held):
    name = held.template(MetadataOptions={"HttpTokens": "required"}, InstanceInitiatedShutdownBehavior="terminate",
                         IamInstanceProfile={"Name": "gpujob-node"})
    i = held.ec2.run_instances(LaunchTemplate={"LaunchTemplateName": name}, InstanceType=TYPE, MinCount=1, MaxCount=1,
                               TagSpecifications=tags(both="request"))["Instances"][0]
    got = {t["Key"]: t["Value"] for t in i["Tags"]}
    assert got["tpl"] == "yes" and got["both"] == "request"
    shown = held.instance(i["InstanceId"])
    assert shown["MetadataOptions"]["HttpTokens"] == "required"
    assert shown["IamInstanceProfile"]["Arn"].endswith("/gpujob-node")
    how = held.ec2.describe_instance_attribute(InstanceId=i["InstanceId"], Attribute="instanceInitiatedShutdownBehavior")
    assert how["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    assert held.get("events")[0]["profile"] == "gpujob-node"


def test_addresses_lie_in_the_subnet_and_do_not_come_back(cloud):
    seen = set()
    for zone, prefix in (("us-east-1a", range(16, 32)), ("us-east-1b", range(32, 48)), ("us-east-1c", range(48, 64))):
        for _ in range(3):
            i = cloud.run(SubnetId=cloud.world["subnets"][zone])[0]
            ip = i["PrivateIpAddress"].split(".")
            assert ip[:2] == ["10", "77"] and int(ip[2]) in prefix
            assert i["PrivateDnsName"] == f"ip-{'-'.join(ip)}.ec2.internal" and i["Placement"]["AvailabilityZone"] == zone
            cloud.ec2.terminate_instances(InstanceIds=[i["InstanceId"]])
            assert wait(lambda iid=i["InstanceId"]: cloud.state(iid) == "terminated")
            seen.add(i["PrivateIpAddress"])
    assert len(seen) == 9
    assert not cloud.ec2.describe_network_interfaces()["NetworkInterfaces"]  # nor are interfaces left behind
    assert not cloud.ec2.describe_volumes()["Volumes"]
    assert cloud.run()[0]["PrivateIpAddress"].startswith("10.77.")  # no subnet named
