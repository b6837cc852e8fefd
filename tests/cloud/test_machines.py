"""Around the verbs' machines: what is looked at first, what is ended after, and when DAGs parse."""

import datetime as dt
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from lumos_airflow.hooks.torchrun_ec2 import EXPIRES, JOB, OWNER, RUN, Instance, TorchrunEc2Hook
from lumos_airflow.operators.machines import (
    CheckMachinesOperator,
    EndMachinesOperator,
    ReapMachinesOperator,
    overdue,
)
from lumos_airflow.record import RECORD, Book, Record, Task

from lumos.cloud import EXAMPLE, read_cloud
from lumos.settings import REPOSITORY
from tests.cloud.aws import Aws
from tests.cloud.deployment import BUCKET, TaskInstance, cloud_file, context, entered
from tests.cloud.faults import Rule
from tests.cloud.waiting import eventually

pytestmark = pytest.mark.timeout(60)
NOW = dt.datetime(2024, 5, 10, 12, tzinfo=dt.UTC)
HOUR, MINUTE = dt.timedelta(hours=1), dt.timedelta(minutes=1)
_attempts = itertools.count()
DAGS = {
    *("daily_aggregation", "data_quality", "retraining"),
    *("batch_scoring", "embedding", "ab_metrics", "aa_calibration"),
    *("instance_reaper", "retract_scores", "maintenance"),
}


@pytest.fixture
def machine() -> dict[str, Any]:
    """What a test wants its machine to be."""
    return {}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One AWS for all tests: to make its clients and networks takes longer than a test."""
    folder = Path(tmp_path_factory.mktemp("deployment"))
    wheel = folder / "lumos-0-py3-none-any.whl"
    wheel.write_bytes(b"code")
    with (
        Aws(folder / "cloud", boot_seconds=0.0, agent_seconds=0.0) as aws,
        pytest.MonkeyPatch.context() as monkeypatch,
        entered(aws, cloud_file(aws, folder, [wheel]), monkeypatch),
    ):
        yield SimpleNamespace(aws=aws, wheel=wheel)


@pytest.fixture
def aws(deployed, tmp_path: Path, machine: dict, monkeypatch) -> Iterator[Aws]:
    """Without an instance, without an object."""
    aws = deployed.aws
    path = cloud_file(aws, tmp_path, [deployed.wheel], machine=machine)
    monkeypatch.setenv("LUMOS_CLOUD", str(path))
    aws.begin()
    yield aws
    aws.faults.rules.clear()
    for instance in aws.alive():
        instance.end("crash", grace=0)
    s3 = aws.client("s3")
    if any(bucket["Name"] == BUCKET for bucket in s3.list_buckets()["Buckets"]):
        for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
            s3.delete_object(Bucket=BUCKET, Key=item["Key"])
    else:
        s3.create_bucket(Bucket=BUCKET)


@pytest.fixture
def hook(aws, tmp_path) -> TorchrunEc2Hook:
    return TorchrunEc2Hook(read_cloud(tmp_path / "cloud.toml"))


def a_record(run_id: str = "manual__1", task_id: str = "train", **changes: Any) -> Record:
    task = Task("retraining", run_id, task_id, -1, 0)
    given = {
        **{name: getattr(task, name) for name in ("key", "task_key", "run_key")},
        **{name: getattr(task, name) for name in ("dag_id", "run_id", "task_id")},
        "deadline": dt.datetime.now(dt.UTC) + HOUR,
        "wheels": (),
        "lock_sha256": "0" * 64,
    }
    return Record(**{**given, **changes})


def launched(hook: TorchrunEc2Hook, record: Record) -> str:
    """With a token that no test before has used."""
    record = record.but(attempt=next(_attempts))
    (found,) = hook.launch(record, hook.cloud.machine("train"))
    return found


def alive(aws: Aws) -> set[str]:
    return {each.id for each in aws.instances() if each.state in ("pending", "running", "stopped")}


# -- look first


def check(*verbs: str) -> dict[str, list[str]]:
    operator = CheckMachinesOperator(task_id="prepare_machine", verbs=verbs or ("train", "score"))
    return operator.execute(context(TaskInstance(), operator))


def test_looking_starts_nothing_and_ships_the_code(aws, capsys):
    (uri,) = check()["code"]
    assert alive(aws) == set()
    key = uri.removeprefix(f"s3://{BUCKET}/")
    assert aws.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"code"
    said = capsys.readouterr().out
    for name in ("train", "score"):
        expected = f"AWS would start 1 x p4d.24xlarge (on-demand) for {name}, at 21.96 USD an hour"
        assert expected in said


def test_looking_twice_ships_the_code_once(aws):
    assert check() == check()
    assert sum(call.action == "PutObject" for call in aws.calls) == 1


@pytest.mark.parametrize("machine", [{"processes": 9}])
def test_more_ranks_than_gpus_are_refused(aws):
    says = r"wants 9 processes on a p4d\.24xlarge, which has 8 GPUs"
    with pytest.raises(AirflowFailException, match=says):
        check("train")
    assert alive(aws) == set()


@pytest.mark.parametrize("machine", [{"processes": 8}, {"instance_type": "c5.large"}])
def test_a_rank_for_each_gpu_or_a_machine_without_any_is_fine(aws):
    check("train")
    assert asked_dry(aws) == ["true"]
    assert alive(aws) == set()


def asked_dry(aws: Aws) -> list[str]:
    """How each start that was asked for was meant."""
    starts = [call for call in aws.calls if call.action == "RunInstances"]
    return [str(call.parameters["DryRun"]).lower() for call in starts]


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        ({"ami": "ami-0123456789abcdef0"}, r"ami-0123456789abcdef0.*LUMOS_CLOUD"),
        ({"instance_type": "p9z.huge"}, r"p9z\.huge.*LUMOS_CLOUD"),
    ],
)
def test_an_id_that_aws_does_not_know_is_named_with_its_place(aws, says):
    with pytest.raises(AirflowFailException, match=says):
        check()


@pytest.mark.parametrize("action", ["RunInstances", "DescribeImages", "DescribeInstanceTypes"])
def test_a_right_that_is_missing_is_a_sentence_with_the_policy(aws, action):
    aws.faults.add(Rule("deny", "ec2", action, caller="airflow"))
    with pytest.raises(AirflowFailException, match=r"docs/aws/airflow-policy\.json"):
        check()


def test_a_bucket_that_is_not_there_is_named(aws):
    aws.client("s3").delete_bucket(Bucket=BUCKET)
    with pytest.raises(AirflowFailException, match=r"NoSuchBucket.*make the bucket"):
        check()


def test_no_capacity_now_stops_nobody_who_would_wait_for_it(aws):
    rule = aws.faults.add(Rule("capacity", action="RunInstances"))
    check()
    assert aws.faults.struck(rule) > 0
    assert alive(aws) == set()


def test_an_aws_that_fails_may_be_asked_again(aws):
    aws.faults.add(Rule("fail", "ec2", "DescribeInstanceTypes"))
    with pytest.raises(AirflowException) as caught:
        check()
    assert not isinstance(caught.value, AirflowFailException)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("LUMOS_CLOUD", "/nowhere.toml", r"LUMOS_CLOUD=/nowhere\.toml cannot be read"),
        ("LUMOS_LAKE", "/tmp/lake", "is on this host alone"),
    ],
)
def test_a_deployment_that_cannot_work_is_refused(aws, monkeypatch, name, value, says):
    monkeypatch.setenv(name, value)
    with pytest.raises(AirflowFailException, match=says):
        check()


# -- end what a run left


def end(run_id: str = "manual__1") -> list[str]:
    operator = EndMachinesOperator(task_id="release_machine")
    return operator.execute(context(TaskInstance(run_id=run_id), operator))


def test_what_a_run_left_is_ended_and_only_that(aws, hook, monkeypatch):
    monkeypatch.setattr(EndMachinesOperator, "dag_id", "retraining")
    left = {launched(hook, a_record(task_id=name)) for name in ("train", "evaluate")}
    other = launched(hook, a_record("manual__2"))
    assert set(end()) == left
    assert alive(aws) == {other}
    eventually(lambda: len(aws.alive()) == 1)
    assert end() == []


# -- the reaper


def reap(dry_run: str = "False") -> dict[str, str]:
    operator = ReapMachinesOperator(task_id="reap", dry_run=dry_run)
    return operator.execute(context(TaskInstance(), operator))


def test_a_machine_past_its_time_is_ended_and_a_young_one_of_a_live_job_is_not(aws, hook):
    old = launched(hook, a_record("old", deadline=dt.datetime.now(dt.UTC) - 2 * HOUR))
    young = launched(hook, a_record("young"))
    assert list(reap("True")) == [old]
    assert alive(aws) == {old, young}
    assert list(reap()) == [old]
    assert alive(aws) == {young}


def test_the_machines_of_another_deployment_are_left_alone(aws, hook):
    other = TorchrunEc2Hook(hook.cloud.model_copy(update={"prefix": "lumos/other"}))
    past = a_record(deadline=dt.datetime.now(dt.UTC) - 2 * HOUR)
    left = launched(other, past)
    assert reap() == {}
    assert alive(aws) == {left}


def test_a_machine_whose_time_nobody_can_read_is_ended(aws, hook):
    found = launched(hook, a_record())
    tags = [{"Key": EXPIRES, "Value": "tomorrow"}]
    aws.client("ec2").create_tags(Resources=[found], Tags=tags)
    assert "no time that is told" in reap()[found]
    assert alive(aws) == set()


def test_a_right_that_the_reaper_lacks_is_a_sentence(aws, hook):
    launched(hook, a_record(deadline=dt.datetime.now(dt.UTC) - 2 * HOUR))
    aws.faults.add(Rule("deny", "ec2", "TerminateInstances"))
    with pytest.raises(AirflowFailException, match="cannot terminate instances"):
        reap()


def test_a_past_machine_is_ended_also_while_records_cannot_be_read(aws, hook):
    # The other one's record would be asked for first.
    young = launched(hook, a_record("young"))
    old = launched(hook, a_record("old", deadline=dt.datetime.now(dt.UTC) - 2 * HOUR))
    aws.instance(young).record.launch_time = "2020-01-01T00:00:00.000Z"
    aws.faults.add(Rule("deny", "s3"))
    with pytest.raises(AirflowException):
        reap()
    assert old not in alive(aws)
    assert young in alive(aws)


def an_instance(record: Record, *, age: dt.timedelta = HOUR, **tags: str) -> Instance:
    given = {OWNER: "o", JOB: record.key, RUN: record.run_key, EXPIRES: (NOW + HOUR).isoformat()}
    return Instance("i-1", "running", "", NOW - age, "p4d.24xlarge", {**given, **tags})


RECORDS = {
    "runs": ({"state": "running", "instance_ids": ("i-1",)}, None),
    "boots": ({"state": "booting", "instance_ids": ("i-1", "i-2")}, None),
    "is being replaced": ({"state": "replacing", "instance_ids": ("i-1",)}, None),
    "ended": ({"state": "ended", "instance_ids": ("i-1",)}, "its job has ended"),
    "elsewhere": ({"state": "running", "instance_ids": ("i-2",)}, "its job goes on elsewhere"),
    "asks": ({"state": "launching"}, "its job goes on elsewhere"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_the_record_of_its_job_says_whether_a_machine_is_needed(hook, name):
    changes, why = RECORDS[name]
    record = a_record(**changes)
    Book(hook.jobs, record.key).write(record)
    expected = [] if why is None else [("i-1", why)]
    assert list(overdue([an_instance(record)], hook.jobs, NOW)) == expected
    # A worker that has just launched it is about to write so.
    assert list(overdue([an_instance(record, age=14 * MINUTE)], hook.jobs, NOW)) == []


def test_a_machine_without_a_record_is_ended_once_it_is_not_young(hook):
    record = a_record()
    assert list(overdue([an_instance(record, age=14 * MINUTE)], hook.jobs, NOW)) == []
    found = list(overdue([an_instance(record)], hook.jobs, NOW))
    assert found == [("i-1", "its job has no record")]


def test_its_time_counts_whatever_the_record_says(hook):
    record = a_record(state="running", instance_ids=("i-1",))
    Book(hook.jobs, record.key).write(record)
    past = an_instance(record, **{EXPIRES: (NOW - MINUTE).isoformat()})
    ((_, why),) = overdue([past], hook.jobs, NOW)
    assert why == "its time was over at 2024-05-10 11:59:00+00:00"


@pytest.mark.parametrize("text", ["", "soon", "2024-05-10", "2999-01-01T00:00:00"])
def test_a_time_without_its_zone_is_no_time(hook, text):
    record = a_record(state="running", instance_ids=("i-1",))
    Book(hook.jobs, record.key).write(record)
    ((_, why),) = overdue([an_instance(record, **{EXPIRES: text})], hook.jobs, NOW)
    assert "no time that is told" in why


def test_a_record_that_cannot_be_understood_keeps_no_other_machine_alive(hook):
    strange = a_record("strange")
    hook.jobs.of(strange.key).write(RECORD, b'{"written": "by a later version"}')
    found = list(overdue([an_instance(strange), an_instance(a_record("none"))], hook.jobs, NOW))
    # Its own is left to its time, which is told by its tag.
    assert found == [("i-1", "its job has no record")]


# -- the DAGs


def parsed(**variables: str) -> SimpleNamespace:
    """What a fresh process makes of the DAG files: benchmarks.parse, and each DAG's tasks."""
    script = (
        "import json; from benchmarks.parse import main; found = main();"
        "from airflow.dag_processing.dagbag import DagBag; bag = DagBag();"
        "found['tasks'] = {d.dag_id: {t.task_id: [type(t).__name__, t.is_teardown, t.is_setup]"
        " for t in d.tasks} for d in bag.dags.values()};"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return SimpleNamespace(**json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def on_aws() -> SimpleNamespace:
    return parsed(LUMOS_PLATFORM="aws", LUMOS_CLOUD=str(REPOSITORY / EXAMPLE))


def test_the_dags_parse_in_a_second_and_import_nothing_heavy(on_aws):
    assert on_aws.import_errors == {}
    assert set(on_aws.tasks) == DAGS
    assert on_aws.heavy == []
    assert on_aws.parse_s <= 1


def test_a_dag_has_the_same_tasks_wherever_it_runs(on_aws):
    local = parsed(LUMOS_PLATFORM="local")
    assert set(local.tasks) == DAGS - {"instance_reaper"}
    for name, tasks in local.tasks.items():
        assert list(tasks) == list(on_aws.tasks[name]), name
    assert {each[0] for each in on_aws.tasks["instance_reaper"].values()} == {
        "ReapMachinesOperator"
    }


def test_each_verb_runs_where_it_should_and_its_machines_are_released(on_aws):
    tasks = on_aws.tasks["retraining"]
    assert tasks["train"][0] == "TorchrunEc2Operator"
    assert tasks["evaluate"][0] == "Ec2VerbOperator"
    assert on_aws.tasks["batch_scoring"]["score"][0] == "ScoreEc2Operator"
    assert on_aws.tasks["embedding"]["embed"][0] == "Ec2VerbOperator"
    assert on_aws.tasks["daily_aggregation"]["aggregate"][0] == "DatabricksVerbOperator"
    for name in ("retraining", "batch_scoring", "embedding"):
        assert on_aws.tasks[name]["prepare_machine"] == ["CheckMachinesOperator", False, True]
        assert on_aws.tasks[name]["release_machine"] == ["EndMachinesOperator", True, False]
