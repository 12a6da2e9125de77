"""What EC2 still has of a cluster, or of one GpuNode, asked as any customer would. Prints a JSON list of sentences."""

import json
import sys

import boto3

ec2 = boto3.client("ec2")
tagged = {"Filters": [{"Name": "tag-key", "Values": ["gpujob.dev/cluster"]}]}
if node := sys.argv[1]:
    tagged = {"Filters": [{"Name": "tag:gpujob.dev/node", "Values": [node]}]}
left = []
for page in ec2.get_paginator("describe_instances").paginate(**tagged):
    for reservation in page["Reservations"]:
        for instance in reservation["Instances"]:
            if instance["State"]["Name"] != "terminated":
                left.append(f"instance {instance['InstanceId']} is {instance['State']['Name']}")
for page in ec2.get_paginator("describe_volumes").paginate(**tagged):
    left += [f"volume {volume['VolumeId']} is {volume['State']}" for volume in page["Volumes"]]
left += [f"address {address['PublicIp']} is allocated" for address in ec2.describe_addresses()["Addresses"]]
print(json.dumps(left))
