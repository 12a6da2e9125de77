"""The stack that manifests/aws publishes: EC2's warnings reach its queue, and nothing else does. moto leaves its policy out."""

import json
import pathlib

import pytest
from conftest import wait

STACK = pathlib.Path(__file__).resolve().parents[3] / "manifests/aws/interruptions.yaml"


@pytest.mark.filterwarnings("ignore:Tried to parse AWS..SQS..QueuePolicy")
def test_warnings_reach_the_queue(held):
    stacks, events, sqs = held.client("cloudformation"), held.client("events"), held.client("sqs")
    stacks.create_stack(StackName="interruptions", TemplateBody=STACK.read_text(),
                        Parameters=[{"ParameterKey": "QueueName", "ParameterValue": "gpujob-of-the-stack"}])
    try:
        [stack] = stacks.describe_stacks(StackName="interruptions")["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        url = next(o["OutputValue"] for o in stack["Outputs"] if o["OutputKey"] == "QueueUrl")
        assert url.endswith("/gpujob-of-the-stack")
        said = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert said["MessageRetentionPeriod"] == "300"
        for kind in ("EC2 Spot Instance Interruption Warning", "EC2 Instance Rebalance Recommendation",
                     "EC2 Instance State-change Notification", "EC2 Fleet Instance Change"):
            # moto lets anyone speak as aws.ec2; AWS does not.
            events.put_events(Entries=[{"Source": "aws.ec2", "DetailType": kind, "Detail": json.dumps({"instance-id": "i-1"})}])
        heard = []

        def listen():
            heard.extend(json.loads(m["Body"])["detail-type"] for m in sqs.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []))
            return len(heard) >= 3

        assert wait(listen) and sorted(heard) == ["EC2 Instance Rebalance Recommendation", "EC2 Instance State-change Notification",
                                                 "EC2 Spot Instance Interruption Warning"]
    finally:
        stacks.delete_stack(StackName="interruptions")
