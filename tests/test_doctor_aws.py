"""`lumos doctor --platform aws` on moto's AWS: each thing that is wrong has its remedy."""

import hashlib
import itertools
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.core.base_backend import BackendDict
from moto.core.responses import ActionResult
from moto.ec2.responses import EC2Response
from moto.iam.responses import IamResponse
from moto.servicequotas.models import ServiceQuotasBackend

from lumos import cli
from lumos.cloudcheck.asking import Check
from lumos.cloudcheck.deployment import examine_aws
from lumos.doctor import examine
from lumos.finding import Finding
from lumos.settings import Settings
from tests.conftest import World
from tests.moto_server import entered

REGION = "us-east-1"
BLOCK = dict.fromkeys(
    ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
)
_numbers = itertools.count()
MACHINE: dict[str, Any] = {"instance_type": "p4d.24xlarge", "hourly_usd": 21.96}


@dataclass(frozen=True)
class Account:
    """What is there before a deployment; of 15,000 images a listing takes two seconds."""

    subnets: list[dict[str, Any]]
    images: dict[str, str]

    @classmethod
    def look(cls) -> "Account":
        ec2 = boto3.client("ec2")
        images = ec2.describe_images(Filters=[{"Name": "name", "Values": ["amzn2-ami-*"]}])
        return cls(
            ec2.describe_subnets()["Subnets"],
            {each["Architecture"]: each["ImageId"] for each in images["Images"]},
        )


class Deployment:
    """All that the example needs, under names of its own; tests take something away."""

    def __init__(self, folder: Path, account: Account) -> None:
        self.folder, self.quota, self.denied = folder, 96.0, set[str]()
        self.account, self.name = account, f"lumos-doctor-{next(_numbers)}"
        self.reservation: dict[str, Any] = {}
        s3, ec2, iam = (boto3.client(name) for name in ("s3", "ec2", "iam"))
        s3.create_bucket(Bucket=self.name)
        s3.put_public_access_block(Bucket=self.name, PublicAccessBlockConfiguration=BLOCK)
        subnets = account.subnets
        offered = ec2.describe_instance_type_offerings(
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": ["p4d.24xlarge"]}],
        )["InstanceTypeOfferings"]
        zones = {each["Location"] for each in offered}
        self.without = [s["SubnetId"] for s in subnets if s["AvailabilityZone"] not in zones]
        self.subnets = [s["SubnetId"] for s in subnets if s["AvailabilityZone"] in zones][:2]
        self.zone = next(s["AvailabilityZone"] for s in subnets if s["SubnetId"] == self.subnets[0])
        self.group = ec2.create_security_group(
            GroupName=self.name, Description="lumos", VpcId=subnets[0]["VpcId"]
        )["GroupId"]
        iam.create_role(RoleName=self.name, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName=self.name)
        iam.add_role_to_instance_profile(InstanceProfileName=self.name, RoleName=self.name)
        boto3.client("secretsmanager").create_secret(Name=self.name, SecretString="hush")
        self.machine = {
            **MACHINE,
            "ami": account.images["x86_64"],
            "subnets": self.subnets,
            "security_groups": [self.group],
            "instance_profile": self.name,
        }
        self.cloud: dict[str, Any] = {
            "region": REGION,
            "bucket": self.name,
            "wheels": [str(folder / "lumos-0.1.0-py3-none-any.whl")],
            "lock": str(folder / "requirements.txt"),
            "secrets": {"MLFLOW_TRACKING_PASSWORD": self.name},
            "databricks": {"cluster": {"spark_version": "17.3.x-scala2.13"}},
        }
        for name in (self.cloud["wheels"][0], self.cloud["lock"]):
            Path(name).write_text("content")

    def settings(self) -> Settings:
        path = self.folder / "cloud.toml"
        lines = [f"{name} = {_toml(value)}" for name, value in self.cloud.items()]
        machine = [f"{name} = {_toml(value)}" for name, value in self.machine.items()]
        path.write_text("\n".join([*lines, "[machines.train]", *machine]))
        return Settings.from_environment(
            {
                "LUMOS_HOME": str(self.folder / "home"),
                "LUMOS_LAKE": "s3://lake/tables",
                "LUMOS_CLOUD": str(path),
                "MLFLOW_TRACKING_URI": "https://mlflow.example.org",
            }
        )

    def findings(self) -> dict[str, Finding]:
        return {finding.check: finding for finding in examine_aws(self.settings())}

    def wrong(self) -> dict[str, Finding]:
        return {name: each for name, each in self.findings().items() if not each.ok}


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + "}"
    return json.dumps(value)


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    BackendDict.reset()
    with pytest.MonkeyPatch.context() as patch, entered(patch):
        yield Account.look()
    BackendDict.reset()


@pytest.fixture
def aws(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    deployment = Deployment(tmp_path, account)
    with ExitStack() as stack:
        # What moto lacks: quotas of EC2, simulated policies, capacity reservations.
        for owner, name, answer in (
            (
                ServiceQuotasBackend,
                "get_service_quota",
                lambda *_, **__: {"Value": deployment.quota},
            ),
            (IamResponse, "simulate_principal_policy", _simulate(deployment)),
            (
                EC2Response,
                "describe_capacity_reservations",
                lambda _: ActionResult({"CapacityReservations": [deployment.reservation]}),
            ),
        ):
            stack.enter_context(mock.patch.object(owner, name, answer, create=True))
        yield deployment


def _simulate(deployment: Deployment) -> Callable[[Any], ActionResult]:
    def answer(call: Any) -> ActionResult:
        results = [
            {
                "EvalActionName": action,
                "EvalDecision": "implicitDeny" if action in deployment.denied else "allowed",
            }
            for action in call._get_param("ActionNames")
        ]
        return ActionResult({"EvaluationResults": results})

    return answer


def test_a_deployment_that_has_everything_needs_nothing(aws: Deployment) -> None:
    found = aws.findings()
    assert {name: each for name, each in found.items() if not each.ok} == {}
    digest = hashlib.sha256(b"content").hexdigest()
    assert digest in found["lock"].seen
    assert digest in found["wheel"].seen
    assert "1 x p4d.24xlarge, on-demand, 21.96 USD" in found["instance type (train)"].seen
    assert "96 vCPUs of L-417A185B for on-demand, 96 needed" in found["quota (train)"].seen
    assert found["start (train)"].seen == "EC2 would start it (dry run)"
    assert "as IAM simulates it" in found["rights of the role (train)"].seen
    assert "left to the tasks" in found["databricks"].seen


def test_nothing_is_started_left_behind_or_told(aws: Deployment, capfd: Any) -> None:
    found = aws.findings()
    assert not boto3.client("ec2").describe_instances()["Reservations"]
    assert not boto3.client("s3").list_objects_v2(Bucket=aws.name).get("Contents")
    assert "hush" not in repr(found) + "".join(capfd.readouterr())


def no_bucket(aws: Deployment) -> None:
    boto3.client("s3").delete_bucket(Bucket=aws.name)


def open_bucket(aws: Deployment) -> None:
    boto3.client("s3").delete_public_access_block(Bucket=aws.name)


def half_open_bucket(aws: Deployment) -> None:
    half = {**BLOCK, "BlockPublicPolicy": False}
    boto3.client("s3").put_public_access_block(Bucket=aws.name, PublicAccessBlockConfiguration=half)


def bucket_elsewhere(aws: Deployment) -> None:
    boto3.client("s3").delete_bucket(Bucket=aws.name)
    boto3.client("s3", region_name="eu-west-1").create_bucket(
        Bucket=aws.name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    boto3.client("s3").put_public_access_block(
        Bucket=aws.name, PublicAccessBlockConfiguration=BLOCK
    )


def no_image(aws: Deployment) -> None:
    aws.machine["ami"] = "ami-00000000000000000"


def image_for_arm(aws: Deployment) -> None:
    aws.machine["ami"] = aws.account.images["arm64"]


def no_subnet(aws: Deployment) -> None:
    aws.machine["subnets"] = ["subnet-00000000000000000"]


def zone_without_the_type(aws: Deployment) -> None:
    aws.machine["subnets"] = [*aws.subnets, aws.without[0]]


def port_22(aws: Deployment) -> None:
    anyone = [{"CidrIp": "0.0.0.0/0"}]
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": anyone}
    boto3.client("ec2").authorize_security_group_ingress(GroupId=aws.group, IpPermissions=[rule])


def nodes_apart(aws: Deployment) -> None:
    aws.machine["nodes"], aws.quota = 2, 192.0


def another_vpc(aws: Deployment) -> None:
    ec2 = boto3.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(GroupName="far", Description="far", VpcId=vpc)
    aws.machine["security_groups"] = [group["GroupId"]]


def no_egress(aws: Deployment) -> None:
    rule = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    boto3.client("ec2").revoke_security_group_egress(GroupId=aws.group, IpPermissions=[rule])


def no_profile(aws: Deployment) -> None:
    aws.machine["instance_profile"] = "nobody"


def no_role(aws: Deployment) -> None:
    boto3.client("iam").remove_role_from_instance_profile(
        InstanceProfileName=aws.name, RoleName=aws.name
    )


def weak_role(aws: Deployment) -> None:
    aws.denied.add("secretsmanager:GetSecretValue")


def small_quota(aws: Deployment) -> None:
    aws.machine["market"], aws.quota = "spot", 5.0


def no_secret(aws: Deployment) -> None:
    aws.cloud["secrets"] = {"TOKEN": "lumos/none"}


def no_wheel(aws: Deployment) -> None:
    Path(aws.cloud["wheels"][0]).unlink()


def other_wheel(aws: Deployment) -> None:
    path = aws.folder / "ours-1-py3-none-any.whl"
    path.write_text("")
    aws.cloud["wheels"] = [str(path)]


def no_lock(aws: Deployment) -> None:
    Path(aws.cloud["lock"]).unlink()


def local_lake(aws: Deployment) -> None:
    aws.cloud["environment"] = {"LUMOS_LAKE": "/tmp/lake", "MLFLOW_TRACKING_URI": "sqlite:///x.db"}


def block(**changes: str) -> Callable[[Deployment], None]:
    def change(aws: Deployment) -> None:
        aws.machine |= {"market": "capacity-block", "capacity_reservation": "cr-0123456789abcdef0"}
        aws.reservation = {
            "State": "active",
            "InstanceType": "p4d.24xlarge",
            "AvailabilityZone": aws.zone,
            "AvailableInstanceCount": 1,
            **changes,
        }

    return change


@pytest.mark.parametrize(
    ("harm", "check", "seen", "remedy"),
    [
        (no_bucket, "bucket", "404", "aws s3api create-bucket --bucket lumos-doctor"),
        (bucket_elsewhere, "bucket", "is in eu-west-1", "Make a bucket in us-east-1"),
        (open_bucket, "bucket private", "NoSuchPublicAccessBlock", "put-public-access-block"),
        (half_open_bucket, "bucket private", "BlockPublicPolicy is off", "BlockPublicPolicy=true"),
        (no_image, "image (train)", "ami-0000", "docs/aws/ami.sh"),
        (image_for_arm, "image (train)", "is for arm64", "Name an image for x86_64"),
        (no_subnet, "subnets (train)", "InvalidSubnetID.NotFound", "Correct it in LUMOS_CLOUD"),
        (zone_without_the_type, "instance type (train)", "no p4d.24xlarge in subnet-", "Take them"),
        (port_22, "security groups (train)", "lets others in", "revoke-security-group-ingress"),
        (nodes_apart, "security groups (train)", "2 nodes cannot", "--source-group sg-"),
        (another_vpc, "security groups (train)", "is in vpc-", "of one VPC"),
        (no_egress, "security groups (train)", "nothing is let out", "outbound HTTPS"),
        (no_profile, "instance profile (train)", "NoSuchEntity", "docs/aws.md"),
        (no_role, "instance profile (train)", "has no role", "add-role-to-instance-profile"),
        (weak_role, "rights of the role (train)", "GetSecretValue on arn:", "instance-role-policy"),
        (small_quota, "quota (train)", "5 vCPUs of L-7212CCBC for spot", "--desired-value 96"),
        (no_secret, "secret TOKEN", "ResourceNotFound", "aws secretsmanager create-secret"),
        (no_wheel, "wheel", "no such file", "make wheel"),
        (other_wheel, "wheel", "none of `wheels` is LUMOS's own", "make wheel"),
        (no_lock, "lock", "no such file", "requirements.txt"),
        (local_lake, "lake of machines", "/tmp/lake", "LUMOS_LAKE"),
        (local_lake, "tracking of machines", "sqlite:...", "MLFLOW_TRACKING_URI"),
        (block(State="expired"), "capacity reservation (train)", "is expired", "Buy a new"),
        (block(InstanceType="p5.48xlarge"), "capacity reservation (train)", "of p5", "Correct"),
        (
            block(AvailabilityZone="us-east-1z"),
            "capacity reservation (train)",
            "1z",
            "Name a subnet",
        ),
    ],
)
def test_what_is_wrong_is_found_with_its_remedy(
    aws: Deployment,
    harm: Callable[[Deployment], None],
    check: str,
    seen: str,
    remedy: str,
) -> None:
    harm(aws)
    wrong = aws.wrong()
    assert check in wrong, wrong
    assert seen in wrong[check].seen
    assert remedy in wrong[check].remedy


@pytest.mark.parametrize(
    ("ready", "seen"),
    [
        (block(), "cr-0123456789abcdef0 is active, 1 instances are free"),
        (block(State="scheduled", StartDate="2030-01-02T11:30:00Z"), "begins at 2030-01-02 11:30"),
    ],
)
def test_a_block_that_is_paid_for_is_ready(
    aws: Deployment, ready: Callable[[Deployment], None], seen: str
) -> None:
    ready(aws)
    found = aws.findings()
    assert seen in found["capacity reservation (train)"].seen
    assert [name for name, each in found.items() if not each.ok] == []


def test_nodes_that_reach_each_other_and_nobody_else_are_fine(aws: Deployment) -> None:
    nodes_apart(aws)
    rule = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": aws.group}]}
    boto3.client("ec2").authorize_security_group_ingress(GroupId=aws.group, IpPermissions=[rule])
    assert aws.wrong() == {}


def test_a_right_to_look_that_is_missing_is_no_fault(
    aws: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(code: str) -> Callable[[], tuple[str, str]]:
        def look() -> tuple[str, str]:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, "Describe")

        return look

    note = Check("quota", denied("AccessDeniedException"), "remedy").run()
    assert note.ok
    assert "not looked at" in note.seen
    must = Check("start", denied("UnauthorizedOperation"), "remedy", must=True).run()
    assert "docs/aws/airflow-policy.json" in must.remedy
    assert Check("x", denied("ExpiredToken"), "remedy").run().remedy == "Renew the credentials"
    assert Check("x", denied("Odd"), "remedy").run() == Finding("x", "Odd: no", "remedy")


def test_without_credentials_one_remedy_is_named_and_not_twenty(
    aws: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(aws.folder / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(aws.folder / "none"))
    (wrong,) = aws.wrong().values()
    assert "an instance role, or AWS_PROFILE" in wrong.remedy


def test_an_aws_that_does_not_answer_is_said_in_a_sentence(
    aws: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (wrong,) = aws.wrong().values()
    assert wrong.seen.startswith("no answer: ")


@pytest.mark.parametrize("content", [None, "region = 'nowhere'", "= ="])
def test_a_cloud_file_that_cannot_be_read_is_the_only_finding(
    tmp_path: Path, content: str | None
) -> None:
    environment = {"LUMOS_HOME": str(tmp_path)}
    if content is not None:
        (tmp_path / "cloud.toml").write_text(content)
        environment["LUMOS_CLOUD"] = str(tmp_path / "cloud.toml")
    (finding,) = examine_aws(Settings.from_environment(environment))
    assert "LUMOS_CLOUD" in finding.seen
    assert "docs/aws/cloud.toml" in finding.remedy


class Workspace(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_ours = self.headers["Authorization"] == "Bearer right"
        self.send_response(200 if is_ours else 403)
        self.end_headers()
        self.wfile.write(json.dumps({"versions": [{"key": "17.3.x-scala2.13"}]}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def workspace() -> Iterator[str]:
    with socketserver.TCPServer(("127.0.0.1", 0), Workspace) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("token", "version", "seen"),
    [
        ("right", "17.3.x-scala2.13", "answers"),
        ("right", "9.1.x-scala2.12", "has no spark_version 9.1.x-scala2.12"),
        ("wrong", "17.3.x-scala2.13", "refuses the token (403)"),
        ("right", None, "does not answer"),
    ],
)
def test_databricks_is_asked_if_its_address_is_given(
    aws: Deployment,
    workspace: str,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    version: str | None,
    seen: str,
) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", workspace if version else "http://127.0.0.1:9")
    monkeypatch.setenv("DATABRICKS_TOKEN", token)
    aws.cloud["databricks"] = {"cluster": {"spark_version": version or "17"}}
    found = aws.findings()["databricks"]
    assert seen in found.seen
    assert found.ok is (seen == "answers")
    assert token not in found.seen + found.remedy


def test_the_flag_asks_for_aws_and_leaves_spark_to_databricks(tmp_path: Path, capfd: Any) -> None:
    request = World(tmp_path).request("doctor", platform="aws")
    names = {finding.check for finding in examine(request)}
    assert "cloud" in names
    assert not names & {"java", "jars"}
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--platform", "mars"])
    assert "'mars' is neither local nor aws" in capfd.readouterr().err
