import asyncio
import datetime as dt
import sys
from collections.abc import Callable
from dataclasses import asdict

import pyarrow as pa
import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred
from lumos_airflow.exporting import skip_without_stores
from lumos_airflow.links.experiment import reports_of
from lumos_airflow.operators.local import LocalVerbOperator
from lumos_airflow.operators.ready import TableReadySensor
from lumos_airflow.publishing import skip_unless_wanted
from lumos_airflow.triggers import ready
from lumos_airflow.triggers.ready import Finding, Partition, TableReadyTrigger, look

from lumos import ledger
from lumos.config import Recipe
from lumos.delta import rewrite
from lumos.overrides import override
from lumos.recipes import load
from lumos.serve.manifest import Manifest
from lumos.settings import Settings
from lumos.stored import store
from lumos.tables import table_uri, tables
from lumos.verbs import Request, TableWritten

DAY = dt.date(2017, 12, 10)


@pytest.fixture
def enter(tmp_path, monkeypatch) -> Callable[..., None]:
    """A real ledger in a fresh lake, and a way to enter a table in it."""
    monkeypatch.setenv("LUMOS_HOME", str(tmp_path))
    monkeypatch.delenv("LUMOS_LAKE", raising=False)

    settings = Settings.from_environment()
    store(settings, "complete_journey", load("complete_journey"))

    def enter(table: str, date: dt.date = DAY, verdict: str = ledger.READY) -> None:
        request = Request(
            verb="aggregate",
            recipe=load("complete_journey"),
            date=date,
            settings=settings,
        )
        report = request.report(tables=(TableWritten(table=table, version=4, rows=99),))
        ledger.record(request, report, inputs={}, verdict=verdict)

    return enter


def sensor(table: str = "sequences", **keywords) -> TableReadySensor:
    return TableReadySensor(
        task_id="wait", table=table, recipe="complete_journey", date=str(DAY), **keywords
    )


def fire(trigger: TableReadyTrigger) -> dict:
    """Run a trigger as the triggerer does, after a trip through its serialised form."""
    _, arguments = trigger.serialize()

    async def first() -> dict:
        async for event in TableReadyTrigger(**arguments).run():
            return event.payload
        raise AssertionError

    return asyncio.run(asyncio.wait_for(first(), timeout=60))


def trigger(seconds: float) -> TableReadyTrigger:
    deadline = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    partition = Partition("sequences", "complete_journey", str(DAY))
    return TableReadyTrigger(**asdict(partition), poll_seconds=0.05, deadline=deadline.isoformat())


def test_a_table_that_is_ready_is_passed_without_the_triggerer(enter):
    enter("sequences")
    found = sensor().execute({})
    assert (found["verdict"], found["version"], found["rows"]) == ("ready", 4, 99)


def test_a_table_that_is_not_there_defers_with_a_deadline(enter):
    enter("activity")
    with pytest.raises(TaskDeferred) as deferred:
        sensor(timeout=dt.timedelta(hours=1), poll_seconds=7).execute({})
    path, arguments = deferred.value.trigger.serialize()
    assert path == "lumos_airflow.triggers.ready.TableReadyTrigger"
    left = dt.datetime.fromisoformat(arguments["deadline"]) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(minutes=59) < left <= dt.timedelta(hours=1)
    assert arguments["poll_seconds"] == 7


def test_the_wait_ends_when_the_ledger_says_ready(enter):
    enter("sequences", DAY - dt.timedelta(days=1))

    async def wait_and_enter() -> dict:
        waiting = asyncio.ensure_future(anext(aiter(trigger(20).run())))
        await asyncio.sleep(0)  # it looks once before the table is there
        await asyncio.to_thread(enter, "sequences")
        return (await waiting).payload

    assert asyncio.run(wait_and_enter())["verdict"] == "ready"


def test_a_lake_that_does_not_answer_for_a_while_ends_no_wait(enter, monkeypatch):
    enter("sequences")
    answers = iter([OSError("Generic S3 error"), OSError("timed out")])

    def look(partition: Partition) -> ready.Finding:
        if (error := next(answers, None)) is not None:
            raise error
        return real(partition)

    real = ready.look
    monkeypatch.setattr(ready, "look", look)
    assert fire(trigger(20))["verdict"] == "ready"
    answers = iter([OSError("it never answers")])
    with pytest.raises(OSError, match="never answers"):
        fire(trigger(-1))


def test_a_refused_table_fails_at_once_and_says_what_to_run(enter):
    enter("sequences", verdict=ledger.REFUSED)
    with pytest.raises(AirflowFailException, match=r"was refused for 2017-12-10.*lumos sequences"):
        sensor().execute({})
    assert fire(trigger(20))["verdict"] == "refused"


def test_a_wait_that_took_too_long_names_the_newest_date_and_the_remedy(enter):
    enter("sequences", dt.date(2017, 12, 7))
    enter("sequences", dt.date(2017, 12, 8), ledger.REFUSED)
    event = fire(trigger(-1))
    with pytest.raises(AirflowFailException) as failed:
        sensor().resume({}, event)
    said = str(failed.value)
    assert "sequences of recipe complete_journey is not ready for 2017-12-10" in said
    assert "its newest ready date is 2017-12-07" in said
    assert "`lumos sequences --recipe complete_journey --date 2017-12-10`" in said
    assert "DAG daily_aggregation" in said


def test_an_empty_lake_is_no_fault(enter):
    found = look(Partition("quality", "complete_journey", str(DAY)))
    assert found == Finding(
        "absent",
        "quality of recipe complete_journey is not ready for 2017-12-10; no date of it is ready",
    )


def test_before_the_first_verb_a_wait_goes_on_and_nothing_is_published(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMOS_HOME", str(tmp_path))
    found = look(Partition("quality", "gone_world.recipe:recipe", str(DAY)))
    assert found.verdict == "absent"
    assert "no verb has run yet for recipe gone_world.recipe:recipe on this lake" in found.message
    skip_unless_wanted(publishing(DAY))


@pytest.mark.parametrize("recipe", ["os:abort", "os:fork", "airflow.utils.db:resetdb"])
def test_triggers_and_pages_import_no_recipe_whatever_a_run_names(tmp_path, monkeypatch, recipe):
    monkeypatch.setenv("LUMOS_HOME", str(tmp_path))
    before = set(sys.modules)
    assert look(Partition("quality", recipe, str(DAY))).verdict == "absent"
    assert reports_of(recipe) == ""
    assert "airflow.utils.db" not in set(sys.modules) - before


def test_a_wait_for_an_unknown_recipe_fails_without_retry(enter):
    task = sensor()
    task.recipe = "nobody"
    with pytest.raises(AirflowFailException, match="recipe 'nobody' is not allowed here"):
        task.execute({})


def test_a_lake_that_does_not_answer_is_a_fault_that_is_retried(enter, monkeypatch):
    def fails(_: Partition) -> Finding:
        raise OSError("the lake does not answer")

    monkeypatch.setattr("lumos_airflow.operators.ready.look", fails)
    with pytest.raises(OSError, match="does not answer"):
        sensor().execute({})


def publishing(date: dt.date, **params) -> dict:
    return {
        "params": {
            "business_date": date.isoformat(),
            "recipe": "complete_journey",
            "publish": True,
            "republish": False,
            **params,
        }
    }


def announce(date: dt.date, state: str = "live", version: int = 1, valid_days: int = 2) -> None:
    """A row of `manifests`, as `publish` and `retract` leave it."""
    recipe = load("complete_journey")
    manifest = Manifest(
        as_of=date,
        scores_version=version,
        state=state,
        num_rows=9,
        columns="",
        checksum="",
        model_version="1",
        calibrator_version="c",
        inputs="{}",
        spread="{}",
        created=dt.datetime(2017, 12, 11, tzinfo=dt.UTC),
        valid_until=date + dt.timedelta(days=valid_days),
        reason="a mistake" if state == "retracted" else None,
    )
    schema = tables(recipe)["manifests"].arrow_schema(recipe)
    uri = table_uri(Settings.from_environment(), recipe, "manifests")
    new = pa.Table.from_pylist([manifest.model_dump()], schema=schema)
    rewrite(uri, schema, lambda rows: pa.concat_tables([rows, new.cast(rows.schema)]))


def test_the_first_and_every_newer_day_are_published(enter):
    skip_unless_wanted(publishing(DAY))
    announce(DAY)
    skip_unless_wanted(publishing(DAY))
    skip_unless_wanted(publishing(DAY + dt.timedelta(days=1)))


def test_an_older_day_is_never_published_by_accident(enter):
    announce(DAY)
    older = DAY - dt.timedelta(days=1)
    with pytest.raises(AirflowSkipException, match="older than 2017-12-10"):
        skip_unless_wanted(publishing(older))
    skip_unless_wanted(publishing(older, republish=True))


def test_what_was_taken_back_does_not_come_back_by_a_cleared_task(enter):
    announce(DAY, "retracted")
    with pytest.raises(AirflowSkipException, match=r"taken back \(a mistake\)"):
        skip_unless_wanted(publishing(DAY))
    skip_unless_wanted(publishing(DAY, republish=True))
    # The day before is the newest one published, then.
    skip_unless_wanted(publishing(DAY - dt.timedelta(days=1)))
    announce(DAY, version=2)
    skip_unless_wanted(publishing(DAY))


def test_a_manifest_of_the_future_does_not_have_every_day_skipped(enter):
    announce(dt.date(2999, 1, 1))
    skip_unless_wanted(publishing(DAY))


def test_publishing_can_be_switched_off(enter):
    with pytest.raises(AirflowSkipException, match="parameter publish is off"):
        skip_unless_wanted(publishing(DAY, publish=False, republish=True))


def with_stores() -> Recipe:
    """Of a platform that serves its scores from files as well."""
    files = {"kind": "parquet", "name": "files", "folder": "/somewhere"}
    return override(load("complete_journey"), {"publishing.stores": [files]})


@pytest.fixture
def stores(monkeypatch) -> str:
    """The name of that recipe, which this deployment allows."""
    name = f"{__name__}:with_stores"
    monkeypatch.setenv("LUMOS_ALLOWED_RECIPES", name)
    return name


def exporting(recipe: str = "complete_journey") -> dict:
    task = LocalVerbOperator(
        task_id="export",
        verb="export",
        recipe=recipe,
        date=DAY.isoformat(),
        overrides="[]",
    )
    return {"task": task, **publishing(DAY)}


def test_scores_are_exported_only_where_the_recipe_has_stores(enter, stores):
    announce(DAY, valid_days=100_000)
    with pytest.raises(AirflowSkipException, match=r"publishing\.stores is empty"):
        skip_without_stores(exporting())
    skip_without_stores(exporting(stores))


def test_a_backfilled_day_whose_scores_have_expired_is_not_exported_and_no_fault(enter, stores):
    announce(DAY)
    with pytest.raises(AirflowSkipException, match=r"not exported: .*valid until 2017-12-12"):
        skip_without_stores(exporting(stores))
