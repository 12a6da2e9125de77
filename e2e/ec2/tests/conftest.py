"""One lab cloud for the whole run, forgotten before each test; every test speaks to it through boto3."""

import base64
import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
os.environ.update(AWS_ACCESS_KEY_ID="lab", AWS_SECRET_ACCESS_KEY="lab-secret", AWS_EC2_METADATA_DISABLED="true",
                  AWS_DEFAULT_REGION="us-east-1")

import boto3
import botocore.config
import botocore.exceptions
import pytest

from ec2.server import serve

TYPE, TYPE2 = "g6.xlarge", "g5.xlarge"
CLIENTS = {}


def wait(check, seconds=10):
    end = time.time() + seconds
    while time.time() < end:
        if found := check():
            return found
        time.sleep(0.02)
    return None


def error(call, **kw):
    """The error code that a call ends with."""
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        call(**kw)
    return refused.value.response["Error"]["Code"]


def tags(kind="instance", **kw):
    return [{"ResourceType": kind, "Tags": [{"Key": k.replace("_", "-"), "Value": v} for k, v in kw.items()]}]


class Cloud:
    """The lab's address, clients for it, and its control paths."""

    def __init__(self, url):
        self.url = url

    def client(self, service="ec2", key="lab", secret="lab-secret", attempts=1):
        asked = (self.url, service, key, secret, attempts)
        if asked not in CLIENTS:  # making one costs 50 ms
            CLIENTS[asked] = boto3.client(
                service, endpoint_url=self.url, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret,
                config=botocore.config.Config(retries={"total_max_attempts": attempts, "mode": "standard"}, max_pool_connections=20))
        return CLIENTS[asked]

    @property
    def ec2(self):
        return self.client()

    def call(self, method, path, body=None, raw=False):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/_lab/{path}", data, method=method)) as answer:
            text = answer.read().decode()
        return text if raw else json.loads(text)

    def get(self, path, **kw):
        return self.call("GET", path, **kw)

    def post(self, path, body=None):
        return self.call("POST", path, body if body is not None else {})

    def fault(self, kind, **row):
        return self.post("faults", {"kind": kind, **row})[0]

    def status(self, method, path, body=None):
        """HTTP status and error text of a call that should fail."""
        with pytest.raises(urllib.error.HTTPError) as refused:
            self.call(method, path, body)
        return refused.value.code, json.loads(refused.value.read() or b"{}").get("error", "")

    @property
    def world(self):
        return self.get("world")

    def args(self, spot=False, max_price=None, **kw):
        found = {"ImageId": self.world["ami"], "InstanceType": TYPE, "MinCount": 1, "MaxCount": 1, **kw}
        if spot:
            found["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": {"MaxPrice": max_price} if max_price else {}}
        return found

    def run(self, spot=False, max_price=None, by=None, **kw):
        return (by or self.ec2).run_instances(**self.args(spot, max_price, **kw))["Instances"]

    def one(self, **kw):
        return self.run(**kw)[0]["InstanceId"]

    def instance(self, iid):
        return self.ec2.describe_instances(InstanceIds=[iid])["Reservations"][0]["Instances"][0]

    def state(self, iid):
        return self.instance(iid)["State"]["Name"]

    def template(self, **data):
        name = f"t{time.time_ns()}"
        self.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={
            "ImageId": self.world["ami"], "UserData": base64.b64encode(b"#!/bin/sh\necho hi").decode(),
            "TagSpecifications": tags(tpl="yes", both="template"), **data})
        return name

    def fleet(self, template, overrides, n=1, market="spot", by=None, version="$Latest", **kw):
        return (by or self.ec2).create_fleet(Type="instant", LaunchTemplateConfigs=[{"LaunchTemplateSpecification": {
            "LaunchTemplateName": template, "Version": version}, "Overrides": overrides}],
            TargetCapacitySpecification={"TotalTargetCapacity": n, "DefaultTargetCapacityType": market}, **kw)

    def messages(self):
        """The event queue, emptied."""
        sqs, url, found = self.client("sqs"), self.world["queue_url"], []
        while got := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            for m in got:
                found.append(json.loads(m["Body"]))
                sqs.delete_message(QueueUrl=url, ReceiptHandle=m["ReceiptHandle"])
        return found


@pytest.fixture(scope="session")
def server():
    found = serve("127.0.0.1", 0)
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()


@pytest.fixture
def cloud(server):
    cloud = Cloud(server)
    cloud.post("reset")
    cloud.messages()
    return cloud


@pytest.fixture
def held(cloud):
    """The same, with instances that stay pending or shutting-down until a test says otherwise."""
    cloud.post("config", {"boot_seconds": 1e9, "end_seconds": 1e9})
    return cloud
