"""Nothing that anyone types reaches a shell, and all of it reaches the verb as it was typed."""

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lumos_airflow.hooks.torchrun_ec2 import TorchrunEc2Hook
from lumos_airflow.operators.torchrun_ec2 import Ec2VerbOperator, TorchrunEc2Operator
from lumos_airflow.record import Book, Record, Task
from pydantic import ValidationError

import lumos.host.bootstrap
from lumos.cloud import Cloud, Machine
from lumos.host.folder import Folder
from lumos.host.job import JOB, Job
from lumos.settings import REPOSITORY
from tests.cloud.aws import Aws
from tests.cloud.deployment import (
    DATE,
    TaskInstance,
    cloud_file,
    context,
    drive,
    entered,
    folder_wheel,
    wheel_around,
)
from tests.cloud.waiting import eventually

pytestmark = pytest.mark.timeout(120)

NASTY = (
    'it\'s "quoted" \\',
    "; reboot #",
    "$(reboot) `reboot` ${HOME} $HOME",
    "a\nLUMOS_BOOTSTRAP\nreboot\n",
    "\t\r\x0b\x1b[31m\u2028\x85",
    "*?[a-z]{1,2} ~ ! & | < > ( ) && ||",
    "{{ ssm:secret }} {{ params.x }} %s {0}",
    "漢字 é \U0001f600 \u202e",
    "--force",
    "x" * 10_000,
    "",
)
nasty = st.one_of(st.sampled_from(NASTY), st.text(max_size=60), st.just("\x00"))

MACHINE = {
    "instance_type": "p4d.24xlarge",
    "ami": "ami-0123456789abcdef0",
    "subnets": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
    "security_groups": ["sg-0123456789abcdef0"],
    "instance_profile": "lumos-instance",
    "hourly_usd": 21.96,
}
CLOUD = {
    "region": "us-east-1",
    "bucket": "acme-lumos",
    "wheels": ["lumos.whl"],
    "lock": "requirements.txt",
    "machines": {"default": MACHINE},
    "databricks": {"environment": {}},
}
LINE = re.compile(
    r"exec [A-Za-z0-9/._~-]+ - s3://acme-lumos/lumos/jobs/[0-9a-f]{32}/[0-9]{3}/job\.json "
    r"[0-9a-f]{64} us-east-1 <<'LUMOS_BOOTSTRAP'"
)


class Spy(TorchrunEc2Hook):
    """Notes what SSM would be asked."""

    def __init__(self) -> None:
        super().__init__(Cloud.model_validate(CLOUD))
        self.sent: dict[str, Any] = {}

    @property
    def ssm(self) -> "Spy":
        return self

    def send_command(self, **sent: Any) -> dict[str, Any]:
        self.sent = sent
        return {"Command": {"CommandId": "c"}}

    def _root_device(self, machine: Machine) -> str:
        return "/dev/xvda"


def a_record(task: Task, **changes: Any) -> Record:
    return Record(
        **{name: getattr(task, name) for name in ("key", "task_key", "run_key")},
        **{name: getattr(task, name) for name in ("dag_id", "run_id", "task_id")},
        deadline=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1),
        wheels=(),
        lock_sha256="0" * 64,
        **changes,
    )


tasks = st.builds(Task, nasty, nasty, nasty, st.integers(-1, 10**9), st.integers(0, 10**6))
counts = st.integers(0, 99), st.integers(0, 10**6)


@settings(deadline=None)
@given(tasks, *counts)
def test_a_shell_is_given_fixed_text_and_an_address_of_hashes(task, launch, attempt):
    hook, record = Spy(), a_record(task, launch=launch, attempt=attempt, instance_ids=("i-1",))
    folder = Book(Folder(None, f"{hook.cloud.root}/jobs"), record.key).launch(record)
    hook.send(record, hook.cloud.machine("train"), f"{folder.uri}/{JOB}", "0" * 64)
    first, *source, last = hook.sent["Parameters"]["commands"]
    assert LINE.fullmatch(first)
    assert source == Path(lumos.host.bootstrap.__file__).read_text().splitlines()
    assert last == "LUMOS_BOOTSTRAP"
    assert len(hook.sent["Comment"]) <= 100
    assert hook.sent["Comment"].isascii()


def test_the_program_that_a_shell_is_given_cannot_end_early_nor_be_filled_in_by_ssm():
    source = Path(lumos.host.bootstrap.__file__).read_text()
    assert "LUMOS_BOOTSTRAP" not in source
    # SSM replaces {{ parameters }} in what it is sent; its document may have 64 KB.
    assert "{{" not in source
    assert source.isascii()
    assert len(source) < 32_000


@settings(deadline=None)
@given(tasks, *counts)
@example(Task("d" * 300, "r" * 300, "t" * 300, 10**9, 10**6), 99, 10**6)
def test_what_ec2_is_asked_stays_within_its_limits(task, launch, attempt):
    record = a_record(task, launch=launch, attempt=attempt)
    hook = Spy()
    asked = hook._request(record, hook.cloud.machine("train"))
    assert len(record.token) <= 64
    assert record.token.isascii()
    for specification in asked["TagSpecifications"]:
        assert len(specification["Tags"]) <= 50
        for tag in specification["Tags"]:
            assert len(tag["Key"]) <= 128
            assert len(tag["Value"]) <= 256
    # The same question, or EC2 refuses the token.
    again = Record.model_validate_json(record.model_dump_json())
    assert again == record
    assert hook._request(again, hook.cloud.machine("train")) == asked
    # No user's text in what runs at boot.
    assert (
        asked["UserData"]
        == hook._request(a_record(Task("", "", "", 0, 0)), hook.cloud.machine("x"))["UserData"]
    )


@given(st.lists(nasty), st.dictionaries(nasty, nasty))
def test_a_job_is_read_as_it_was_written(arguments, environment):
    job = Job(
        arguments=tuple(arguments),
        processes=None,
        nodes=(),
        rendezvous_port=29400,
        wheels=(),
        lock={"path": "lock", "sha256": "0" * 64},
        environment=environment,
        secrets={},
        home="~/lumos",
        region="us-east-1",
        budget_seconds=1,
        beat_seconds=1,
    )
    # The bootstrap reads it, and writes it anew for the agent.
    written = json.dumps(json.loads(job.model_dump_json()))
    assert Job.model_validate(json.loads(written)) == job


# -- end to end


def verb(**options: str) -> Ec2VerbOperator:
    return Ec2VerbOperator(
        task_id="score",
        verb="score",
        date=DATE,
        recipe="complete_journey",
        options={**options, "do": "report"},
        overrides="[]",
        hours=1,
        retries=2,
    )


@pytest.fixture
def aws(tmp_path, monkeypatch):
    package = folder_wheel(REPOSITORY / "lumos", tmp_path / "lumos-0-py3-none-any.whl")
    (tmp_path / "code").mkdir()
    wheel = wheel_around("__main__.py", "verb_stand_in.py", package, tmp_path / "code")
    with (
        Aws(tmp_path / "cloud", boot_seconds=0.0, agent_seconds=0.0) as aws,
        entered(aws, cloud_file(aws, tmp_path, [wheel]), monkeypatch),
    ):
        yield aws


def test_whatever_is_typed_arrives_as_it_was_typed(aws):
    typed = {f"text-{number}": each for number, each in enumerate(NASTY) if each}
    make = lambda: verb(**typed)  # noqa: E731
    ti = TaskInstance(run_id="manual__2024-05-10T00:00:00+00:00 $(reboot) '", dag_id="é;`id`")
    report = drive(make, ti)
    assert report["argv"] == make().arguments
    assert [f"--{name}={each}" for name, each in typed.items()] == [
        each for each in report["argv"] if each.startswith("--text-")
    ]
    eventually(lambda: not aws.alive())


@pytest.mark.parametrize("typed", ["\x00", "\ud800", "x" * 131_072])
def test_what_no_command_line_can_hold_is_refused_before_it_costs(aws, typed):
    operator = verb(text=typed)
    with pytest.raises(AirflowFailException, match="no command line can hold '--text="):
        operator.execute(context(TaskInstance(), operator))
    assert aws.instances() == []


def test_an_override_that_the_recipe_lacks_is_refused_before_it_costs(aws):
    operator = TorchrunEc2Operator(
        task_id="train",
        verb="train",
        date=DATE,
        recipe="complete_journey",
        overrides='["training.epoch=2"]',
        hours=1,
    )
    with pytest.raises(AirflowFailException, match=r"training\.epoch"):
        operator.execute(context(TaskInstance(), operator))
    assert aws.instances() == []


# -- what a data engineer writes down

META = ["'", '"', " ", "\n", ";", "$(id)", "`id`", "&", "|", ">", "*", "\\", "\x00", "é"]
WORDS = {
    "instance_type": "p4d.24xlarge",
    "ami": "ami-0123456789abcdef0",
    "instance_profile": "lumos-instance",
    "python": "/opt/lumos/venv/bin/python",
    "lock": "/opt/lumos/requirements.txt",
    "home": "/opt/lumos/home",
    "capacity_reservation": "cr-0123456789abcdef0",
}


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("meta", META)
def test_a_machine_has_no_word_that_means_something_to_a_shell(name, meta):
    more = {"market": "capacity-block"} if name == "capacity_reservation" else {}
    Machine.model_validate({**MACHINE, **more, name: WORDS[name]})
    for wrong in (WORDS[name] + meta, meta + WORDS[name], WORDS[name][:4] + meta + WORDS[name][4:]):
        with pytest.raises(ValidationError):
            Machine.model_validate({**MACHINE, **more, name: wrong})


@pytest.mark.parametrize("name", ["subnets", "security_groups"])
@pytest.mark.parametrize("meta", META)
def test_nor_has_any_of_its_lists(name, meta):
    for wrong in (MACHINE[name][0] + meta, meta + MACHINE[name][0]):
        with pytest.raises(ValidationError):
            Machine.model_validate({**MACHINE, name: [*MACHINE[name], wrong]})


@pytest.mark.parametrize(
    ("name", "word"), [("region", "us-east-1"), ("bucket", "acme"), ("prefix", "a/b")]
)
@pytest.mark.parametrize("meta", META)
def test_nor_has_a_deployment(name, word, meta):
    Cloud.model_validate({**CLOUD, name: word})
    for wrong in (word + meta, meta + word, word[:2] + meta + word[2:]):
        with pytest.raises(ValidationError):
            Cloud.model_validate({**CLOUD, name: wrong})


@pytest.mark.parametrize(
    "wrong", ["relative/python", "~root/python", "/opt/../etc//", "", "/", "~"]
)
def test_a_path_on_the_image_is_absolute_or_of_the_home(wrong):
    with pytest.raises(ValidationError):
        Machine.model_validate({**MACHINE, "python": wrong})


@pytest.mark.parametrize("place", ["environment", "secrets"])
@pytest.mark.parametrize("name", ["A=B", "lower", "A\n", "A;B", "", "1A", "$A"])
def test_a_variable_has_a_name(place, name):
    with pytest.raises(ValidationError):
        Cloud.model_validate({**CLOUD, place: {name: "value"}})
