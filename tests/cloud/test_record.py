"""What is decided from a record, as tables of cases, and who may write it."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from lumos_airflow.record import Book, End, Record, Task, combined, is_done, is_final, task_of
from pydantic import ValidationError

from lumos.codes import BAD_INPUT, DONE, FAULT, REFUSED, RESUME
from lumos.host.folder import Conflict, Folder
from lumos.host.job import Result
from tests.cloud.aws import Aws
from tests.cloud.deployment import TaskInstance

NOW = dt.datetime(2024, 5, 10, 6, tzinfo=dt.UTC)
KILLED = 137


def a_record(**changes) -> Record:
    task = Task("retraining", "manual__1", "train", -1, 0)
    given = {
        **{name: getattr(task, name) for name in ("key", "task_key", "run_key")},
        **{name: getattr(task, name) for name in ("dag_id", "run_id", "task_id")},
        "deadline": NOW,
        "wheels": (),
        "lock_sha256": "0" * 64,
    }
    return Record(**{**given, **changes})


def answer(code: int, cause: str = "ended", *, line: str = "", error: str = "") -> Result:
    return Result(code=code, cause=cause, last_line=line, last_error=error)


# -- how a launch ended


@pytest.mark.parametrize(
    ("results", "code", "cause"),
    [
        ([answer(DONE)], DONE, "ended"),
        ([answer(DONE), answer(DONE)], DONE, "ended"),
        # One that failed is not hidden by those that did not, wherever it stands.
        ([answer(DONE), answer(FAULT)], FAULT, "ended"),
        ([answer(FAULT), answer(DONE)], FAULT, "ended"),
        # torchrun ends the companions of a failed rank, and says 1 of them.
        ([answer(FAULT), answer(BAD_INPUT)], BAD_INPUT, "ended"),
        ([answer(FAULT), answer(FAULT), answer(KILLED)], KILLED, "ended"),
        ([answer(RESUME), answer(FAULT)], RESUME, "ended"),
        # What made a machine ask its verb to leave explains all the others.
        ([answer(FAULT), answer(RESUME, "spot")], RESUME, "spot"),
        ([answer(KILLED), answer(FAULT, "spot")], FAULT, "spot"),
        ([answer(RESUME, "budget"), answer(FAULT)], RESUME, "budget"),
        ([answer(RESUME), answer(143, "shutdown")], 143, "shutdown"),
        # Asked too late to matter.
        ([answer(DONE, "spot")], DONE, "spot"),
        ([answer(DONE, "spot"), answer(DONE)], DONE, "spot"),
        ([answer(DONE, "budget"), answer(REFUSED)], REFUSED, "ended"),
    ],
)
def test_several_machines_end_as_the_one_that_knows_why(results, code, cause):
    end = combined(results)
    assert (end.code, end.cause) == (code, cause)


def test_the_report_is_the_first_node_s_and_the_sentence_that_of_the_one_which_failed():
    end = combined([answer(FAULT, line="report"), answer(BAD_INPUT, line="?", error="no such day")])
    assert (end.last_line, end.last_error) == ("report", "no such day")


def test_a_machine_without_a_sentence_does_not_hide_that_of_another():
    end = combined([answer(FAULT, error="out of memory"), answer(KILLED)])
    assert (end.code, end.last_error) == (KILLED, "out of memory")


@pytest.mark.parametrize(
    ("code", "cause", "done", "final"),
    [
        (DONE, "ended", True, True),
        (BAD_INPUT, "ended", True, True),
        (REFUSED, "ended", True, True),
        (FAULT, "ended", True, False),  # a retry of the task, not a replacement of its machine
        (KILLED, "ended", True, False),
        (RESUME, "ended", False, False),
        (RESUME, "spot", False, False),
        (FAULT, "spot", False, False),
        (143, "spot", False, False),
        (DONE, "spot", True, True),
        (BAD_INPUT, "spot", True, True),
        (RESUME, "shutdown", False, False),
        (FAULT, "shutdown", False, False),
        (DONE, "shutdown", True, True),
        (RESUME, "budget", True, True),
        (143, "budget", True, True),
        (DONE, "budget", True, True),
        (RESUME, "stop", True, False),
        (-1, "lost", False, False),
    ],
)
def test_whether_another_launch_goes_on_and_a_retry_tries_again(code, cause, done, final):
    end = End(code=code, cause=cause)
    assert (is_done(end), is_final(end)) == (done, final)


def test_what_has_not_ended_is_not_final():
    assert not is_final(None)


# -- names of jobs


def test_a_retry_is_the_same_job_and_a_clear_makes_another_of_the_same_task():
    operator = SimpleNamespace(retries=2)

    def task(**given) -> Task:
        return task_of({"ti": TaskInstance(**given), "task": operator})

    first = task()
    assert task(try_number=2).key == task(try_number=3).key == first.key
    cleared = [task(try_number=n, max_tries=n + 1) for n in (2, 3, 4)]
    assert len({first.key, *(each.key for each in cleared)}) == 4
    assert {each.task_key for each in cleared} == {first.task_key}
    assert {each.run_key for each in cleared} == {first.run_key}


def test_a_task_without_retries_has_a_key_too():
    ti = TaskInstance(max_tries=0)
    first = task_of({"ti": ti, "task": SimpleNamespace(retries=None)})
    assert first.generation == 0
    ti.max_tries = 1
    assert task_of({"ti": ti, "task": SimpleNamespace(retries=None)}).key != first.key


@pytest.mark.parametrize("name", ["dag_id", "run_id", "task_id", "map_index"])
def test_other_tasks_are_other_jobs(name):
    given = {"dag_id": "a", "run_id": "b", "task_id": "c", "map_index": 0, "generation": 0}
    other = Task(**{**given, name: 1 if name == "map_index" else "other"})
    assert other.key != Task(**given).key
    assert other.task_key != Task(**given).task_key


def test_names_that_run_together_are_told_apart():
    assert Task("a", "bc", "d", -1, 0).key != Task("ab", "c", "d", -1, 0).key
    assert Task("a", "b", "c", 1, 11).key != Task("a", "b", "c", 11, 1).key


# -- the record


def test_the_next_launch_forgets_the_machines_and_keeps_the_job():
    first = a_record(
        state="replacing",
        attempt=3,
        first_asked=NOW,
        instance_ids=("i-1",),
        command_id="c",
        end=End(code=RESUME, cause="spot"),
    )
    second = first.next_launch("taken back")
    assert second == a_record(state="launching", launch=1, replaced=("taken back",))
    assert second.token != first.token
    assert second.launch_folder == "001"


def test_no_two_tokens_of_a_job_are_equal():
    tokens = [a_record(launch=i, attempt=j).token for i in range(12) for j in range(120)]
    assert len(set(tokens)) == len(tokens)


def test_only_the_last_reasons_are_kept():
    record = a_record()
    for number in range(9):
        record = record.next_launch(f"reason {number}")
    assert record.replaced == tuple(f"reason {number}" for number in range(4, 9))


def test_a_copy_is_checked_as_the_record_was():
    with pytest.raises(ValidationError):
        a_record().but(state="nowhere")
    with pytest.raises(ValidationError):
        a_record().but(instance="i-1")


# -- who writes


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    with Aws(Path(tmp_path_factory.mktemp("cloud"))) as aws:
        aws.client("s3").create_bucket(Bucket="acme")
        yield Folder(aws.client("s3"), "s3://acme/jobs")


def test_a_record_is_read_as_it_was_written(jobs):
    book = Book(jobs, "read")
    assert book.read() is None
    record = a_record(end=End(code=1, cause="ended", last_error="é\n\u2028"), first_asked=NOW)
    book.write(record)
    assert Book(jobs, "read").read() == record


def test_of_two_that_begin_a_job_one_is_first(jobs):
    one, two = Book(jobs, "begin"), Book(jobs, "begin")
    assert one.read() is two.read() is None
    one.write(a_record())
    with pytest.raises(Conflict):
        two.write(a_record(lock_sha256="1" * 64))
    assert two.read() == a_record()


def test_a_record_that_was_changed_meanwhile_is_not_replaced(jobs):
    one, two = Book(jobs, "change"), Book(jobs, "change")
    record = one.write(a_record())
    assert two.read() == record
    booting = one.write(record.but(state="booting"))
    with pytest.raises(Conflict):
        two.write(record.but(attempt=1))
    assert two.read() == booting
    # Having read again it may, and it is then the other who must.
    two.write(booting.but(state="running"))
    with pytest.raises(Conflict):
        one.write(booting.but(state="replacing"))


def test_who_writes_again_and_again_needs_to_read_only_once(jobs):
    book = Book(jobs, "again")
    record = book.write(a_record())
    for attempt in range(1, 4):
        record = book.write(record.but(attempt=attempt))
    assert Book(jobs, "again").read() == record
