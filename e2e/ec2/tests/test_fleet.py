"""CreateFleet instant: Errors[], order, tokens, templates by version."""

import base64
import time

import botocore.exceptions
import pytest
from conftest import TYPE, TYPE2, error, tags


def codes(answer):
    return [e["ErrorCode"] for e in answer["Errors"]]


def test_errors_per_override_and_tags(held):
    s = held.world["subnets"]
    a, b, c = (s[f"us-east-1{z}"] for z in "abc")
    held.post("prices", [{"type": TYPE, "zone": f"us-east-1{z}", "price": p} for z, p in (("a", 0.1), ("b", 0.2), ("c", 0.3))])
    held.fault("capacity", type=TYPE, zone="us-east-1a", market="spot", available=0)
    r = held.fleet(held.template(), [{"InstanceType": TYPE, "SubnetId": a}, {"InstanceType": TYPE, "SubnetId": b, "MaxPrice": "0.15"},
                                     {"InstanceType": TYPE, "SubnetId": c}], SpotOptions={"AllocationStrategy": "lowest-price"},
                   TagSpecifications=tags(claim="c1", both="request") + tags("fleet", f="1") + tags("volume", v="1")
                   + tags("spot-instances-request", s="1"))
    errors = [(e["LaunchTemplateAndOverrides"]["Overrides"]["SubnetId"], e["ErrorCode"], e["Lifecycle"]) for e in r["Errors"]]
    assert errors == [(a, "InsufficientInstanceCapacity", "spot"), (b, "SpotMaxPriceTooLow", "spot")]
    made = r["Instances"][0]
    assert made["LaunchTemplateAndOverrides"]["Overrides"]["SubnetId"] == c and made["Lifecycle"] == "spot"
    assert made["InstanceType"] == TYPE and made["AvailabilityZone"] == "us-east-1c"
    i = held.instance(made["InstanceIds"][0])
    got = {t["Key"]: t["Value"] for t in i["Tags"]}
    assert got["claim"] == "c1" and got["both"] == "request" and got["tpl"] == "yes" and got["aws:ec2:fleet-id"] == r["FleetId"]
    assert i["InstanceLifecycle"] == "spot" and i["SubnetId"] == c
    volume = i["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    assert {"Key": "v", "Value": "1"} in held.ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Tags"]
    request = held.ec2.describe_spot_instance_requests(Filters=[{"Name": "tag:s", "Values": ["1"]}])["SpotInstanceRequests"]
    assert [q["InstanceId"] for q in request] == [i["InstanceId"]]
    assert held.ec2.describe_fleets(FleetIds=[r["FleetId"]])["Fleets"][0]["Type"] == "instant"


def test_nothing_but_errors_is_a_success(held):
    held.fault("capacity", available=0)
    r = held.fleet(held.template(), [{"InstanceType": TYPE}, {"InstanceType": TYPE2}])
    assert not r["Instances"] and codes(r) == ["InsufficientInstanceCapacity"] * 2 and not held.get("instances")


def test_allocation_strategies(held):
    s, name = held.world["subnets"]["us-east-1a"], held.template()
    held.post("prices", [{"type": t, "zone": "us-east-1a", "price": p} for t, p in ((TYPE, 0.1), (TYPE2, 0.2))])
    held.fault("capacity", type=TYPE, market="spot", available=1)
    over = [{"InstanceType": t, "SubnetId": s, "Priority": p} for t, p in ((TYPE, 2), (TYPE2, 1))]

    def got(n=2, **options):
        r = held.fleet(name, over, n, SpotOptions=options)
        found = [(x["InstanceType"], len(x["InstanceIds"])) for x in r["Instances"]], codes(r)
        if r["Instances"]:
            held.ec2.terminate_instances(InstanceIds=[i for x in r["Instances"] for i in x["InstanceIds"]])
        return found

    assert got(AllocationStrategy="price-capacity-optimized") == ([(TYPE2, 2)], [])
    assert got(AllocationStrategy="price-capacity-optimized", n=1) == ([(TYPE, 1)], [])
    assert got(AllocationStrategy="lowest-price") == ([(TYPE, 1), (TYPE2, 1)], ["InsufficientInstanceCapacity"])
    assert got(AllocationStrategy="capacity-optimized-prioritized", n=1) == ([(TYPE2, 1)], [])
    assert got(AllocationStrategy="lowest-price", n=1, MaxTotalPrice="0.05") == ([], ["SpotMaxPriceTooLow"] * 2)
    assert got(AllocationStrategy="lowest-price", n=3, MinTargetCapacity=3)[0] == [(TYPE, 1), (TYPE2, 2)]
    held.fault("capacity", type=TYPE2, available=0)
    assert got(AllocationStrategy="lowest-price", MinTargetCapacity=2)[0] == []


def test_quotas_and_zones_are_errors_too(held):
    held.fault("quota", market="spot", instances=0)
    held.fault("quota", market="on-demand", family="g6", vcpus=3)
    name = held.template()
    assert codes(held.fleet(name, [{"InstanceType": TYPE}])) == ["MaxSpotInstanceCountExceeded"]
    assert codes(held.fleet(name, [{"InstanceType": TYPE}], market="on-demand")) == ["VcpuLimitExceeded"]
    assert codes(held.fleet(name, [{"InstanceType": "p4de.24xlarge"}], market="on-demand")) == ["InvalidFleetConfiguration"]


def test_token(held):
    over, name = [{"InstanceType": TYPE, "SubnetId": held.world["subnets"]["us-east-1b"]}], held.template()
    r = held.fleet(name, over, market="on-demand", ClientToken="f1")
    iid = r["Instances"][0]["InstanceIds"][0]
    assert "InstanceLifecycle" not in held.instance(iid) and held.instance(iid)["ClientToken"] == "f1"
    held.ec2.terminate_instances(InstanceIds=[iid])
    again = held.fleet(name, over, market="on-demand", ClientToken="f1")
    assert (again["FleetId"], again["Instances"]) == (r["FleetId"], r["Instances"])
    with pytest.raises(botocore.exceptions.ClientError, match="IdempotentParameterMismatch"):
        held.fleet(name, over, 2, market="on-demand", ClientToken="f1")
    assert len(held.get("instances")) == 1


def test_answer_delayed_or_lost(held):
    name, over = held.template(), [{"InstanceType": TYPE}]
    held.fault("call", action="CreateFleet", when="after", delay=0.3, code="InternalError")
    since = time.time()
    with pytest.raises(botocore.exceptions.ClientError, match="InternalError"):
        held.fleet(name, over, ClientToken="d")
    assert time.time() - since >= 0.3
    r = held.fleet(name, over, ClientToken="d")
    assert [i["id"] for i in held.get("instances")] == r["Instances"][0]["InstanceIds"]


def test_delete_terminates(held):
    r = held.fleet(held.template(), [{"InstanceType": TYPE}])
    held.ec2.delete_fleets(FleetIds=[r["FleetId"]], TerminateInstances=True)
    assert held.state(r["Instances"][0]["InstanceIds"][0]) == "shutting-down"


def test_template_by_id_and_version(held):
    name = held.template()
    encoded = base64.b64encode("#!/bin/sh\necho zwei ü".encode()).decode()
    v = held.ec2.create_launch_template_version(LaunchTemplateName=name, SourceVersion="1", LaunchTemplateData={
        "UserData": encoded, "InstanceInitiatedShutdownBehavior": "terminate"})["LaunchTemplateVersion"]
    assert v["VersionNumber"] == 2 and v["LaunchTemplateData"]["ImageId"] == held.world["ami"]

    def launch(version):
        r = held.ec2.create_fleet(Type="instant", LaunchTemplateConfigs=[{"LaunchTemplateSpecification": {
            "LaunchTemplateId": v["LaunchTemplateId"], "Version": version}, "Overrides": [{"InstanceType": TYPE}]}],
            TargetCapacitySpecification={"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"})
        assert r["Instances"][0]["LaunchTemplateAndOverrides"]["LaunchTemplateSpecification"]["LaunchTemplateId"] == v["LaunchTemplateId"]
        return held.get("events")[-1]["user_data"]

    assert launch("2").endswith("zwei ü") and launch("1").endswith("echo hi") and launch("$Latest").endswith("zwei ü")
    assert launch("$Default").endswith("echo hi")
    with pytest.raises(botocore.exceptions.ClientError, match="InvalidLaunchTemplateId.VersionNotFound"):
        launch("3")


def test_network_interfaces_of_the_template(held):
    s, sg = held.world["subnets"]["us-east-1b"], held.world["security_group"]
    name = held.template(NetworkInterfaces=[{"DeviceIndex": 0, "Groups": [sg], "AssociatePublicIpAddress": False}],
                         InstanceMarketOptions={"MarketType": "spot"})
    r = held.fleet(name, [{"InstanceType": TYPE, "SubnetId": s}], market="on-demand")
    i = held.instance(r["Instances"][0]["InstanceIds"][0])
    assert i["SubnetId"] == s and [g["GroupId"] for g in i["NetworkInterfaces"][0]["Groups"]] == [sg]
    assert "InstanceLifecycle" not in i  # the fleet's market counts, not the template's


def test_missing_template(held):
    with pytest.raises(botocore.exceptions.ClientError, match="InvalidLaunchTemplateName.NotFoundException"):
        held.fleet("no-such", [{"InstanceType": TYPE}])
    spec = {"LaunchTemplateSpecification": {"LaunchTemplateId": "lt-0123456789abcdef0", "Version": "1"}, "Overrides": [{"InstanceType": TYPE}]}
    assert error(held.ec2.create_fleet, Type="instant", LaunchTemplateConfigs=[spec],
                 TargetCapacitySpecification={"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"}) == "InvalidLaunchTemplateId.NotFound"


def test_templates_are_listed_and_deleted(held):
    ec2, name = held.ec2, f"gpujob-{time.time_ns()}"
    data = {"ImageId": held.world["ami"], "InstanceType": TYPE}
    made = ec2.create_launch_template(LaunchTemplateName=name, ClientToken=name, LaunchTemplateData=data,
                                      TagSpecifications=tags("launch-template", pool=name))["LaunchTemplate"]
    again = ec2.create_launch_template(LaunchTemplateName=name, ClientToken=name, LaunchTemplateData=data,
                                       TagSpecifications=tags("launch-template", pool=name))["LaunchTemplate"]
    assert again["LaunchTemplateId"] == made["LaunchTemplateId"]
    assert error(ec2.create_launch_template, LaunchTemplateName=name, LaunchTemplateData=data) == "InvalidLaunchTemplateName.AlreadyExistsException"
    for f in ({"Name": "tag:pool", "Values": [name]}, {"Name": "launch-template-name", "Values": [name]}, {"Name": "tag-key", "Values": ["pool"]}):
        found = ec2.describe_launch_templates(Filters=[f])["LaunchTemplates"]
        assert made["LaunchTemplateId"] in [t["LaunchTemplateId"] for t in found], f
    assert not ec2.describe_launch_templates(Filters=[{"Name": "tag:pool", "Values": ["other"]}])["LaunchTemplates"]
    for number in range(2, 5):
        ec2.create_launch_template_version(LaunchTemplateName=name, LaunchTemplateData={**data, "InstanceType": TYPE2})
    shown = ec2.describe_launch_template_versions(LaunchTemplateName=name, MaxResults=3)
    assert [v["VersionNumber"] for v in shown["LaunchTemplateVersions"]] == [1, 2, 3] and shown["NextToken"]
    assert "TagSpecifications" not in shown["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    shown = ec2.describe_launch_template_versions(LaunchTemplateName=name, Filters=[{"Name": "instance-type", "Values": [TYPE]}])
    assert [v["VersionNumber"] for v in shown["LaunchTemplateVersions"]] == [1]
    ec2.delete_launch_template(LaunchTemplateId=made["LaunchTemplateId"])
    assert error(ec2.describe_launch_templates, LaunchTemplateNames=[name]) == "InvalidLaunchTemplateName.NotFoundException"
    assert error(ec2.describe_launch_templates, LaunchTemplateIds=[made["LaunchTemplateId"]]) == "InvalidLaunchTemplateId.NotFound"
    assert error(ec2.delete_launch_template, LaunchTemplateName=name) == "InvalidLaunchTemplateName.NotFoundException"
    assert error(ec2.describe_launch_template_versions, LaunchTemplateName=name) == "InvalidLaunchTemplateName.NotFoundException"
