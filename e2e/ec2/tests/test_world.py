"""What is there at the start, and the read-only services beside EC2."""

import json
import time

import pytest
from conftest import TYPE, error


def test_network_and_role(cloud):
    w = cloud.world
    for key in ("gpujob.dev/cluster", "kubernetes.io/cluster/lab"):
        value = "lab" if key.startswith("gpujob") else "owned"
        found = cloud.ec2.describe_subnets(Filters=[{"Name": f"tag:{key}", "Values": [value]}])["Subnets"]
        assert {s["AvailabilityZone"]: s["CidrBlock"] for s in found} == {
            "us-east-1a": "10.77.16.0/20", "us-east-1b": "10.77.32.0/20", "us-east-1c": "10.77.48.0/20"}
        groups = cloud.ec2.describe_security_groups(Filters=[{"Name": f"tag:{key}", "Values": [value]}])["SecurityGroups"]
        assert [g["GroupId"] for g in groups] == [w["security_group"]]
    assert {s["SubnetId"] for s in found} == set(w["subnets"].values()) and not any(s["MapPublicIpOnLaunch"] for s in found)
    assert [v["CidrBlock"] for v in cloud.ec2.describe_vpcs()["Vpcs"]] == ["10.77.0.0/16"]
    profile = cloud.client("iam").get_instance_profile(InstanceProfileName="gpujob-node")["InstanceProfile"]
    assert [r["RoleName"] for r in profile["Roles"]] == ["gpujob-node"]
    assert cloud.client("sqs").get_queue_url(QueueName="gpujob-interruptions")["QueueUrl"]
    assert cloud.client("sts").get_caller_identity()["Account"] == w["account"] == "123456789012"


@pytest.mark.parametrize("version", ["1.33", "1.34", "1.35"])
def test_image_parameters(cloud, version):
    name = f"/aws/service/eks/optimized-ami/{version}/amazon-linux-2023/x86_64/nvidia/recommended/image_id"
    ami = cloud.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    image = cloud.ec2.describe_images(ImageIds=[ami])["Images"][0]
    assert image["Architecture"] == "x86_64" and version in image["Name"] and image["RootDeviceName"] == "/dev/xvda"
    assert ami == cloud.world["amis"][f"{version}/nvidia"]
    assert error(cloud.client("ssm").get_parameter, Name="/aws/service/eks/none") == "ParameterNotFound"


def test_instance_types(cloud):
    ec2 = cloud.ec2

    def gpus(*names):
        return {t["InstanceType"]: [(g["Name"], g["Count"], g["MemoryInfo"]["SizeInMiB"]) for g in t["GpuInfo"]["Gpus"]]
                for t in ec2.describe_instance_types(InstanceTypes=list(names))["InstanceTypes"]}

    assert gpus(TYPE, "p3.8xlarge") == {TYPE: [("L4", 1, 22888)], "p3.8xlarge": [("V100", 4, 16384)]}
    priced = [p["type"] for p in cloud.get("prices")]
    assert len(gpus(*set(priced))) == len(set(priced))  # every type with a spot price has GpuInfo
    got = ec2.describe_instance_types(Filters=[{"Name": "instance-type", "Values": ["g6.*", "p5.48xlarge"]}])["InstanceTypes"]
    assert len(got) == 9 and {t["InstanceType"].split(".")[0] for t in got} == {"g6", "p5"}
    got = ec2.describe_instance_types(Filters=[{"Name": "instance-type", "Values": ["g*", "p*"]},
                                               {"Name": "processor-info.supported-architecture", "Values": ["x86_64"]}])["InstanceTypes"]
    assert all("x86_64" in t["ProcessorInfo"]["SupportedArchitectures"] for t in got) and len(got) > 50
    assert error(ec2.describe_instance_types, InstanceTypes=["g99.xlarge"]) == "InvalidInstanceType"
    pages = ec2.get_paginator("describe_instance_types").paginate(Filters=[{"Name": "instance-type", "Values": ["g6.*"]}],
                                                                 PaginationConfig={"PageSize": 5})
    assert [len(p["InstanceTypes"]) for p in pages] == [5, 3]
    since = time.time()
    ec2.describe_instance_types(Filters=[{"Name": "instance-type", "Values": ["g*", "p*"]}])
    assert time.time() - since < 1  # kept from the first time


def test_offerings(cloud):
    found = cloud.ec2.describe_instance_type_offerings(LocationType="availability-zone", Filters=[
        {"Name": "instance-type", "Values": ["p5en.48xlarge", "p3.*"]}])["InstanceTypeOfferings"]
    assert {(o["InstanceType"], o["Location"]) for o in found if o["InstanceType"][:3] == "p5e"} == {
        ("p5en.48xlarge", "us-east-1a"), ("p5en.48xlarge", "us-east-1c")}
    assert {o["InstanceType"] for o in found} == {"p5en.48xlarge", "p3.2xlarge", "p3.8xlarge", "p3.16xlarge"}
    only = cloud.ec2.describe_instance_type_offerings(LocationType="availability-zone", Filters=[
        {"Name": "location", "Values": ["us-east-1b"]}, {"Name": "instance-type", "Values": ["g6.xlarge"]}])["InstanceTypeOfferings"]
    assert only == [{"InstanceType": "g6.xlarge", "LocationType": "availability-zone", "Location": "us-east-1b"}]
    assert cloud.ec2.describe_instance_type_offerings()["InstanceTypeOfferings"][0]["Location"] == "us-east-1"


def test_pricing(cloud):
    pricing = cloud.client("pricing")

    def usd(answer):
        found = {}
        for text in answer["PriceList"]:
            entry = json.loads(text)
            [term] = entry["terms"]["OnDemand"].values()
            [dimension] = term["priceDimensions"].values()
            assert dimension["unit"] == "Hrs"
            found[entry["product"]["attributes"]["instanceType"]] = float(dimension["pricePerUnit"]["USD"])
        return found

    usual = [{"Type": "TERM_MATCH", "Field": f, "Value": v} for f, v in (
        ("regionCode", "us-east-1"), ("operatingSystem", "Linux"), ("preInstalledSw", "NA"), ("capacitystatus", "Used"),
        ("marketoption", "OnDemand"), ("tenancy", "Shared"), ("productFamily", "Compute Instance"))]
    one = pricing.get_products(ServiceCode="AmazonEC2", Filters=[*usual, {"Type": "TERM_MATCH", "Field": "instanceType", "Value": "g6.xlarge"}])
    assert usd(one) == {"g6.xlarge": 0.8048}
    everything = {}
    for page in pricing.get_paginator("get_products").paginate(ServiceCode="AmazonEC2", Filters=usual, PaginationConfig={"PageSize": 20}):
        assert len(page["PriceList"]) <= 20
        everything.update(usd(page))
    assert len(everything) > 50 and everything["p4de.24xlarge"] == pytest.approx(27.44705)
    assert not pricing.get_products(ServiceCode="AmazonEC2", Filters=[{"Type": "TERM_MATCH", "Field": "regionCode", "Value": "eu-west-1"}])["PriceList"]
    assert error(pricing.get_products, ServiceCode="AmazonNone") == "InvalidParameterException"
    cloud.post("prices", {"type": "g6.xlarge", "market": "on-demand", "price": 0.9})
    one = pricing.get_products(ServiceCode="AmazonEC2", Filters=[{"Type": "TERM_MATCH", "Field": "instanceType", "Value": "g6.xlarge"}])
    assert usd(one) == {"g6.xlarge": 0.9}
