"""Users made through /_lab/users are held to their policy; the lab's own key is not; other keys are refused."""

import pytest
from conftest import TYPE, error, tags


def statement(action, resource="*", effect="Allow", **condition):
    return {"Effect": effect, "Action": action, "Resource": resource, **({"Condition": condition} if condition else {})}


@pytest.fixture
def user(held):
    made = []

    def make(*statements, name=None):
        name = name or f"u{len(made)}"
        got = held.post("users", {"name": name, "policy": {"Version": "2012-10-17", "Statement": list(statements)}})
        made.append(name)
        return lambda service="ec2": held.client(service, key=got["access_key"], secret=got["secret_key"])

    yield make
    for name in set(made):
        held.call("DELETE", f"users/{name}")


OWNER = {"StringEquals": {"aws:RequestTag/owner": "lab"}}
MINE = {"StringEquals": {"aws:ResourceTag/owner": "lab"}}
EVERY = [kind for k in ("instance", "volume", "network-interface", "spot-instances-request") for kind in tags(k, owner="lab")]


def test_keys(held, user):
    admin = user(statement("*"))
    assert admin().describe_instances() and held.ec2.describe_instances()
    assert error(held.client(key="AKIAIOSFODNN7EXAMPLE", secret="x").describe_instances) == "AuthFailure"
    key = held.get("users")[0]["access_key"]
    assert error(held.client(key=key, secret="wrong").describe_instances) == "AuthFailure"
    assert error(held.client("ssm", key="AKIAIOSFODNN7EXAMPLE", secret="x").get_parameter, Name="/x") == "InvalidClientTokenId"
    assert admin("sts").get_caller_identity()["Arn"].endswith(":user/u0")
    assert error(admin().describe_instances, InstanceIds=["i-0123456789abcdef0"]) == "InvalidInstanceID.NotFound"


def test_policy_can_change_and_go(held, user):
    u = user(statement("ec2:Describe*"), name="changes")
    u().describe_instances()
    user(statement("ec2:Describe*"), statement("ec2:DescribeInstances", effect="Deny"), name="changes")
    assert error(u().describe_instances) == "UnauthorizedOperation"
    u().describe_subnets()
    code, text = held.status("POST", "users", {"name": "bad", "policy": {"Statement": "nonsense"}})
    assert code == 400 and "policy" in text


def test_tags_of_the_resource(held, user):
    scoped = user(statement("ec2:TerminateInstances", "arn:aws:ec2:*:*:instance/*", **MINE))()
    mine = held.one(TagSpecifications=tags(owner="lab"))
    other = held.one(TagSpecifications=tags(owner="else"))
    assert error(scoped.terminate_instances, InstanceIds=[other]) == "UnauthorizedOperation"
    assert error(scoped.terminate_instances, InstanceIds=[mine, other]) == "UnauthorizedOperation"
    scoped.terminate_instances(InstanceIds=[mine])
    assert error(scoped.describe_instances) == "UnauthorizedOperation"


def launcher(*more):
    """What an operator may do: launch only what carries its tag, from any image and subnet."""
    arn = "arn:aws:ec2:*:{}:{}/*".format
    return [statement(["ec2:RunInstances", "ec2:CreateFleet"],
                      [arn("*", k) for k in ("fleet", "instance", "volume", "network-interface", "spot-instances-request")], **OWNER),
            statement(["ec2:RunInstances", "ec2:CreateFleet"],
                      ["arn:aws:ec2:*::image/*"] + [arn("*", k) for k in ("subnet", "security-group", "launch-template")]),
            statement("ec2:CreateTags", "*", StringEquals={"ec2:CreateAction": ["RunInstances", "CreateFleet"]}), *more]


def test_tags_of_the_request(held, user):
    scoped = user(*launcher())()
    subnet = held.world["subnets"]["us-east-1a"]
    assert held.run(by=scoped, SubnetId=subnet, TagSpecifications=EVERY)
    assert error(scoped.run_instances, **held.args(SubnetId=subnet)) == "UnauthorizedOperation"
    assert error(scoped.run_instances, **held.args(TagSpecifications=tags(owner="else"))) == "UnauthorizedOperation"
    iid = held.one(TagSpecifications=tags(owner="lab"))
    assert error(scoped.create_tags, Resources=[iid], Tags=[{"Key": "a", "Value": "b"}]) == "UnauthorizedOperation"  # not at creation


def test_fleet_and_its_role(held, user):
    name = held.template(IamInstanceProfile={"Name": "gpujob-node"})
    over = [{"InstanceType": TYPE, "SubnetId": held.world["subnets"]["us-east-1a"]}]
    specs = EVERY + tags("fleet", owner="lab")

    def fleet(by, specs=specs):
        return held.fleet(name, over, by=by, TagSpecifications=specs)

    with pytest.raises(Exception, match="iam:PassRole"):
        fleet(user(*launcher())())
    passes = user(*launcher(statement("iam:PassRole", "arn:aws:iam::*:role/gpujob-node",
                                      StringEquals={"iam:PassedToService": "ec2.amazonaws.com"})))()
    assert fleet(passes)["Instances"]
    with pytest.raises(Exception, match="UnauthorizedOperation.*volume"):
        fleet(passes, [s for s in specs if s["ResourceType"] != "volume"])
    assert len(held.get("instances")) == 1


def test_other_services(held, user):
    name = "/aws/service/eks/optimized-ami/1.35/amazon-linux-2023/x86_64/nvidia/recommended/image_id"
    u = user(statement("ssm:GetParameter", "arn:aws:ssm:*::parameter/aws/service/eks/*"),
             statement("sqs:ReceiveMessage", "arn:aws:sqs:*:*:gpujob-interruptions"), statement("pricing:GetProducts"))
    assert u("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    assert error(u("ssm").get_parameter, Name="/mine") == "AccessDeniedException"
    assert error(u("ssm").get_parameters, Names=[name]) == "AccessDeniedException"
    u("sqs").receive_message(QueueUrl=held.world["queue_url"])
    assert error(u("sqs").delete_message, QueueUrl=held.world["queue_url"], ReceiptHandle="x") == "AccessDeniedException"
    entries = [{"Id": "0", "ReceiptHandle": "x"}]
    assert error(u("sqs").delete_message_batch, QueueUrl=held.world["queue_url"], Entries=entries) == "AccessDeniedException"
    deletes = user(statement("sqs:DeleteMessage", "arn:aws:sqs:*:*:gpujob-*"))  # the right to a batch is the right to one
    deletes("sqs").delete_message_batch(QueueUrl=held.world["queue_url"], Entries=entries)
    assert u("pricing").get_products(ServiceCode="AmazonEC2")["PriceList"]
    nothing = user(statement("s3:*"))
    assert error(nothing("pricing").get_products, ServiceCode="AmazonEC2") == "AccessDeniedException"
    assert error(nothing("iam").list_users) == "AccessDenied"
    assert nothing("sts").get_caller_identity()["Account"] == "123456789012"  # always allowed
