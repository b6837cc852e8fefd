"""What an instance needs before it can be started: each thing that `machines` of a cloud names."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lumos.cloud import Cloud, Machine
from lumos.cloudcheck.asking import Aws, Check, Unseen, error_code, said

# Service Quotas: vCPUs of all running instances of these families; on demand, then spot.
_QUOTAS = {
    "p": ("L-417A185B", "L-7212CCBC"),
    "g": ("L-DB2E81BA", "L-3819A6DF"),
    "vt": ("L-DB2E81BA", "L-3819A6DF"),
    "inf": ("L-1945791B", "L-B5D1601B"),
    "trn": ("L-2C3B7624", "L-6B0D517C"),
    "dl": ("L-6E869C2A", "L-85EED4F7"),
    **dict.fromkeys(("a", "c", "d", "h", "i", "m", "r", "t", "z"), ("L-1216C47A", "L-34B43A08")),
}
_CORRECT = "Correct it in LUMOS_CLOUD"


def checks_of_machines(aws: Aws, cloud: Cloud, lake: str) -> Iterator[Check]:
    """Of each machine; equal ones once. ``lake`` is its address as a machine sees it."""
    kinds: dict[str, tuple[list[str], Machine]] = {}
    for verb, machine in cloud.machines.items():
        kinds.setdefault(machine.model_dump_json(), ([], machine))[0].append(verb)
    for verbs, machine in kinds.values():
        of = f"({', '.join(verbs)})"
        yield from _checks(aws, cloud, machine, of)
        yield Check(
            f"rights of the role {of}",
            lambda machine=machine: _rights(aws, cloud, machine, lake),  # type: ignore[misc]
            _CORRECT,
        )


def _checks(aws: Aws, cloud: Cloud, machine: Machine, of: str) -> Iterator[Check]:
    def check(name: str, look: Any, remedy: str = _CORRECT, *, must: bool = False) -> Check:  # noqa: ANN401
        return Check(f"{name} {of}", lambda: look(aws, cloud, machine), remedy, must=must)

    yield check("image", _image, "Make one with docs/aws/ami.sh in this region, and name it `ami`")
    yield check("subnets", _subnets)
    yield check("security groups", _security_groups)
    yield check("instance type", _offered)
    yield check("quota", _quota)
    yield check("instance profile", _profile, "Make it as docs/aws.md says, or correct its name")
    if machine.capacity_reservation:
        yield check("capacity reservation", _reservation)
    yield check("start", _dry_run, must=True)


def _image(aws: Aws, cloud: Cloud, machine: Machine) -> tuple[str, str]:
    images = aws("ec2").describe_images(ImageIds=[machine.ami])["Images"]
    if not images:
        remedy = "Make it there (docs/aws/ami.sh, or aws ec2 copy-image), or correct `ami`"
        return f"{machine.ami} is not in {cloud.region}", remedy
    image = images[0]
    if image["State"] != "available":
        return f"{machine.ami} is {image['State']}", "Wait until it is available, or name another"
    if image.get("Architecture") != "x86_64":
        remedy = "Name an image for x86_64: the lock is made for it"
        return f"{machine.ami} is for {image.get('Architecture')}", remedy
    return f"{machine.ami}, {image.get('Name', 'without a name')}", ""


def _subnets(aws: Aws, _cloud: Cloud, machine: Machine) -> tuple[str, str]:
    found = _zones(aws, machine)
    zones = sorted(set(found.values()))
    alone = "" if len(zones) > 1 else ": no other is asked when it has no capacity"
    return f"{len(found)} in {', '.join(zones)}{alone}", ""


def _zones(aws: Aws, machine: Machine) -> dict[str, str]:
    """Zone by subnet, in the order in which they are tried."""
    found = _described_subnets(aws, machine)
    return {name: found[name]["AvailabilityZone"] for name in machine.subnets}


def _described_subnets(aws: Aws, machine: Machine) -> dict[str, Any]:
    answer = aws("ec2").describe_subnets(SubnetIds=list(machine.subnets))["Subnets"]
    return {subnet["SubnetId"]: subnet for subnet in answer}


def _security_groups(aws: Aws, _cloud: Cloud, machine: Machine) -> tuple[str, str]:
    own = list(machine.security_groups)
    groups = aws("ec2").describe_security_groups(GroupIds=own)["SecurityGroups"]
    networks = {subnet["VpcId"] for subnet in _described_subnets(aws, machine).values()}
    for group in groups:
        name = group["GroupId"]
        if {group["VpcId"]} != networks:
            seen = f"{name} is in {group['VpcId']}, the subnets in {', '.join(sorted(networks))}"
            return seen, "Name groups and subnets of one VPC"
        if any(_is_open(rule, own) for rule in group["IpPermissions"]):
            remedy = (
                f"Take it away (aws ec2 revoke-security-group-ingress --group-id {name} ...): "
                "commands come by Systems Manager, which needs no open port"
            )
            return f"{name} lets others in", remedy
    if machine.nodes > 1 and not any(
        _is_among(rule, own) for g in groups for rule in g["IpPermissions"]
    ):
        remedy = (
            f"aws ec2 authorize-security-group-ingress --group-id {own[0]} --protocol -1 "
            f"--source-group {own[0]}"
        )
        return f"{machine.nodes} nodes cannot reach each other", remedy
    if not any(group.get("IpPermissionsEgress") for group in groups):
        return "nothing is let out", "Allow outbound HTTPS: to S3, Systems Manager and MLflow"
    return "nothing from outside comes in", ""


def _is_open(rule: Mapping[str, Any], own: Sequence[str]) -> bool:
    sources = [pair["GroupId"] for pair in rule.get("UserIdGroupPairs", ())]
    ranges = [
        *rule.get("IpRanges", ()),
        *rule.get("Ipv6Ranges", ()),
        *rule.get("PrefixListIds", ()),
    ]
    return bool(ranges) or any(source not in own for source in sources)


def _is_among(rule: Mapping[str, Any], own: Sequence[str]) -> bool:
    """NCCL takes any port, so that all of TCP must be open among the nodes."""
    sources = [pair["GroupId"] for pair in rule.get("UserIdGroupPairs", ())]
    is_all = rule["IpProtocol"] == "-1" or (
        rule["IpProtocol"] == "tcp"
        and rule.get("FromPort", 0) <= 1024
        and rule.get("ToPort") == 65535
    )
    return is_all and any(source in own for source in sources)


def _offered(aws: Aws, _cloud: Cloud, machine: Machine) -> tuple[str, str]:
    pages = (
        aws("ec2")
        .get_paginator("describe_instance_type_offerings")
        .paginate(
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": [machine.instance_type]}],
        )
    )
    offered = {each["Location"] for page in pages for each in page["InstanceTypeOfferings"]}
    without = {name: zone for name, zone in _zones(aws, machine).items() if zone not in offered}
    kind, price = machine.instance_type, machine.hourly_usd * machine.nodes
    if not without:
        return f"{machine.nodes} x {kind}, {machine.market}, {price:g} USD an hour in all", ""
    named = ", ".join(f"{name} ({zone})" for name, zone in without.items())
    remedy = f"Take them from `subnets`; it is offered in {', '.join(sorted(offered)) or 'no zone'}"
    return f"no {kind} in {named}", remedy


def _quota(aws: Aws, cloud: Cloud, machine: Machine) -> tuple[str, str]:
    from botocore.exceptions import ClientError

    if machine.market == "capacity-block":
        return "paid for in advance: the block is its own quota", ""
    family = _family(machine.instance_type)
    if family not in _QUOTAS:
        raise Unseen(f"no quota is known for {machine.instance_type}")
    types = aws("ec2").describe_instance_types(InstanceTypes=[machine.instance_type])
    needed = types["InstanceTypes"][0]["VCpuInfo"]["DefaultVCpus"] * machine.nodes
    code = _QUOTAS[family][machine.market == "spot"]
    try:
        answer = aws("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode=code)
    except ClientError as error:
        if error_code(error) != "NoSuchResourceException":
            raise
        raise Unseen(f"{needed} vCPUs are needed; the quota {code} is not listed") from error
    has = int(answer["Quota"]["Value"])
    seen = f"{has} vCPUs of {code} for {machine.market}, {needed} needed"
    remedy = (
        f"Ask for {needed} or more: aws service-quotas request-service-quota-increase "
        f"--service-code ec2 --quota-code {code} --desired-value {needed} --region {cloud.region}"
    )
    return seen, "" if has >= needed else remedy


def _family(instance_type: str) -> str:
    """The letters before the generation: ``p`` of ``p4d.24xlarge``, ``g`` of ``gr6.4xlarge``."""
    letters = ""
    for letter in instance_type:
        if not letter.isalpha():
            break
        letters += letter
    return letters if letters in _QUOTAS else letters[:1]


def _profile(aws: Aws, _cloud: Cloud, machine: Machine) -> tuple[str, str]:
    name, role = machine.instance_profile, _role(aws, machine)
    if role is None:
        command = f"aws iam add-role-to-instance-profile --instance-profile-name {name}"
        return f"{name} has no role", f"Give it one: {command} --role-name lumos-instance"
    return f"{name} with the role {role}", ""


def _role(aws: Aws, machine: Machine) -> str | None:
    answer = aws("iam").get_instance_profile(InstanceProfileName=machine.instance_profile)
    roles = answer["InstanceProfile"]["Roles"]
    return str(roles[0]["Arn"]) if roles else None


def _rights(aws: Aws, cloud: Cloud, machine: Machine, lake: str) -> tuple[str, str]:
    """What the role may do, as far as these credentials may ask."""
    from botocore.exceptions import ClientError

    role, denied = _role(aws, machine), []
    if role is None:
        raise Unseen("there is no role")
    try:
        for resource, actions in _wanted(cloud, lake, account=role.split(":")[4]).items():
            answer = aws("iam").simulate_principal_policy(
                PolicySourceArn=role, ActionNames=actions, ResourceArns=[resource]
            )
            denied += [
                f"{result['EvalActionName']} on {resource}"
                for result in answer["EvaluationResults"]
                if result["EvalDecision"] != "allowed"
            ]
    except ClientError as error:
        raise Unseen(f"not looked at ({said(error)})") from error
    if denied:
        remedy = f"Give it docs/aws/instance-role-policy.json: {role}"
        return f"may not {'; '.join(denied)}", remedy
    return "storage, secrets and Systems Manager, as IAM simulates it", ""


def _wanted(cloud: Cloud, lake: str, *, account: str) -> dict[str, list[str]]:
    """Actions by resource: what docs/aws/instance-role-policy.json allows, by examples."""
    files = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    ours = f"arn:aws:s3:::{cloud.bucket}/{cloud.prefix}"
    wanted = {
        f"{ours}/code/0/lumos.whl": files[:1],
        f"{ours}/jobs/0/000/job.json": files[:1],
        f"{ours}/jobs/0/000/i-0/pulse": files[1:2],
        f"{ours}/train/0/state.json": files,
    }
    scheme, _, place = lake.partition("://")
    if scheme in ("s3", "s3a"):
        wanted[f"arn:aws:s3:::{place}/recipe/table/file"] = files
    for name in cloud.secrets.values():
        secret = f"arn:aws:secretsmanager:{cloud.region}:{account}:secret:{name}-000000"
        wanted[name if name.startswith("arn:") else secret] = ["secretsmanager:GetSecretValue"]
    return {**wanted, "*": ["ssm:UpdateInstanceInformation", "ssmmessages:OpenControlChannel"]}


def _reservation(aws: Aws, _cloud: Cloud, machine: Machine) -> tuple[str, str]:
    name = str(machine.capacity_reservation)
    answer = aws("ec2").describe_capacity_reservations(CapacityReservationIds=[name])
    found = answer["CapacityReservations"][0]
    state, kind, zone = found["State"], found["InstanceType"], found["AvailabilityZone"]
    if kind != machine.instance_type:
        return f"{name} is of {kind}", f"Correct `instance_type`: {machine.instance_type}"
    if zone not in _zones(aws, machine).values():
        return f"{name} is in {zone}", "Name a subnet of that zone, and no other"
    starts = found.get("StartDate")
    if state == "scheduled" and isinstance(starts, dt.datetime):
        return f"{name} begins at {starts:%Y-%m-%d %H:%M} UTC", ""
    if state != "active":
        return f"{name} is {state}", "Buy a new capacity block, and correct `capacity_reservation`"
    return f"{name} is active, {found.get('AvailableInstanceCount', '?')} instances are free", ""


def _dry_run(aws: Aws, cloud: Cloud, machine: Machine) -> tuple[str, str]:
    """Ask EC2 to start it, and not to: rights, ids and their combination are all checked."""
    from botocore.exceptions import ClientError

    owner = [{"Key": "lumos:owner", "Value": f"{cloud.bucket}/{cloud.prefix}"}]
    market: dict[str, Any] = {}
    if machine.market != "on-demand":
        market["InstanceMarketOptions"] = {"MarketType": machine.market}
    if machine.capacity_reservation:
        target = {"CapacityReservationId": machine.capacity_reservation}
        market["CapacityReservationSpecification"] = {"CapacityReservationTarget": target}
    try:
        aws("ec2").run_instances(
            DryRun=True,
            ImageId=machine.ami,
            InstanceType=machine.instance_type,
            MinCount=machine.nodes,
            MaxCount=machine.nodes,
            SubnetId=machine.subnets[0],
            SecurityGroupIds=list(machine.security_groups),
            IamInstanceProfile={"Name": machine.instance_profile},
            InstanceInitiatedShutdownBehavior="terminate",
            MetadataOptions={"HttpTokens": "required", "HttpEndpoint": "enabled"},
            TagSpecifications=[
                {"ResourceType": kind, "Tags": owner} for kind in ("instance", "volume")
            ],
            **market,
        )
    except ClientError as error:
        if error_code(error) != "DryRunOperation":
            raise
    return "EC2 would start it (dry run)", ""
