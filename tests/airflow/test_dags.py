import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import ParamValidationError
from lumos_airflow.form import form

from lumos.allowed import shipped
from lumos.settings import REPOSITORY

DAGS = {
    *("daily_aggregation", "data_quality", "retraining", "batch_scoring"),
    *("embedding", "ab_metrics", "aa_calibration", "retract_scores"),
    "maintenance",
}

DAG_FOLDER = REPOSITORY / "dags"


def parse(environment: dict) -> dict:
    """What a fresh process finds when it parses the DAG files: nothing is imported yet."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.parse"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def dags() -> dict:
    bag = DagBag()
    assert bag.import_errors == {}
    return bag.dags


def test_all_dags_parse_within_a_second_and_import_nothing_heavy():
    found = parse({**os.environ, "LUMOS_PLATFORM": "local"})
    assert found["import_errors"] == {}
    assert found["num_dags"] == len(DAGS)
    assert found["heavy"] == []
    assert found["parse_s"] <= 1


def test_a_cloud_that_is_not_described_fails_at_parse_with_a_sentence(tmp_path, monkeypatch):
    wrong = tmp_path / "cloud.toml"
    wrong.write_text('region = "nowhere"')
    monkeypatch.setenv("LUMOS_PLATFORM", "aws")
    for path, says in (("", "needs LUMOS_CLOUD, a file as"), (str(wrong), "region: String should")):
        monkeypatch.setenv("LUMOS_CLOUD", path)
        found = DagBag()
        assert found.dags == {}
        assert set(map(Path, found.import_errors)) >= {DAG_FOLDER / f"{name}.py" for name in DAGS}
        for text in found.import_errors.values():
            assert says in text


def test_all_dags_are_there_and_documented_for_on_call(dags):
    assert set(dags) == DAGS
    for dag in dags.values():
        assert dag.catchup is False
        assert "When a task is red" in dag.doc_md
        assert dag.tags
        for task in dag.tasks:
            assert task.retries >= 1
            assert task.owner == "lumos"
            assert task.execution_timeout or task.task_id.startswith(("wait_", "prep", "rel"))


def test_every_verb_writes_for_one_date_at_a_time(dags):
    for dag in dags.values():
        for task in dag.tasks:
            if hasattr(task, "verb"):
                assert task.max_active_tis_per_dag == 1


def test_outlets_name_every_table_that_the_daily_path_writes(dags):
    outlets = {asset.name for dag in dags.values() for task in dag.tasks for asset in task.outlets}
    assert outlets >= {
        *("activity", "event_context", "users", "sequences", "metrics", "model"),
        *("evaluations", "forecasts", "scores", "manifests", "exposures", "outcomes", "effects"),
        *("embeddings", "profiles", "cohorts", "histograms"),
    }


def test_training_is_released_whatever_happens_and_cannot_hide_a_failure(dags):
    dag = dags["retraining"]
    released = dag.get_task("release_machine")
    assert dag.get_task("prepare_machine").is_setup
    assert released.is_teardown
    assert not released.on_failure_fail_dagrun
    # The run's state is that of its leaves; a teardown is not counted as one.
    assert released.upstream_task_ids == {"prepare_machine", "promote"}
    assert dag.get_task("train").upstream_task_ids == {"prepare_machine"}


def test_scores_are_taken_back_by_hand_only_for_a_date_that_is_named(dags):
    dag = dags["retract_scores"]
    assert not dag.timetable.can_be_scheduled
    (task,) = dag.tasks
    assert (task.verb, task.task_id) == ("retract", "retract")
    with pytest.raises(ParamValidationError):
        dag.params.get_param("business_date").resolve(None)
    assert dag.params.get_param("business_date").resolve("2017-12-10") == "2017-12-10"


def test_republishing_is_the_only_other_way_to_force_a_publication(dags):
    publish = dags["batch_scoring"].get_task("publish")
    assert publish.switches["force"] == "{{ params.force or params.republish }}"


def test_scoring_waits_for_the_sequences_and_for_the_verdict_of_quality(dags):
    prepared = dags["batch_scoring"].get_task("prepare_machine")
    assert prepared.upstream_task_ids == {"wait_sequences", "wait_quality"}


def test_scoring_pins_the_version_once_and_publishes_without_waiting_for_the_shadow(dags):
    dag = dags["batch_scoring"]
    assert dag.get_task("score").upstream_task_ids == {"resolve"}
    assert "task_ids='resolve'" in dag.get_task("score").options["model"]
    assert dag.get_task("publish").upstream_task_ids == {"score"}
    assert dag.get_task("shadow").upstream_task_ids == {"score"}


def test_monitors_delay_nobody_and_hide_no_failure(dags):
    quality, scoring = dags["data_quality"], dags["batch_scoring"]
    tables = quality.get_task("monitor")
    assert (tables.verb, tables.options) == ("monitor", {"of": "tables"})
    # Leaves both, so that a refused day is red though its monitors are green.
    assert {task.task_id for task in quality.leaves} == {"validate", "monitor"}
    forecasts = scoring.get_task("monitor")
    assert (forecasts.verb, forecasts.options) == ("monitor", {"of": "forecasts"})
    assert forecasts.upstream_task_ids == {"publish"}
    assert forecasts.trigger_rule == "all_done"
    assert forecasts.downstream_task_ids == set()


def test_what_is_wrong_with_one_experiment_keeps_no_other_from_being_measured(dags):
    dag = dags["ab_metrics"]
    for name, before in (("measure", "assign"), ("review", "measure")):
        task = dag.get_task(name)
        assert task.trigger_rule == "all_done_min_one_success"
        assert task.upstream_task_ids == {before, "wait_activity"}
    # A fault of one is a fault of each later task, so that the last one's colour is the run's.
    assert {task.task_id for task in dag.leaves} == {"review"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("business_date", "2017-13-40"),
        ("business_date", "yesterday"),
        ("recipe", "rm -rf /"),
        ("recipe", "package.module:"),
        ("recipe", "a:b; c"),
        ("recipe", "os:abort"),
        ("recipe", "gym_world.recipe:recipe"),
        ("days", 0),
        ("days", 5001),
        ("days", "365"),
        ("settings", ["training.epochs"]),
        ("settings", ["--force"]),
        ("settings", ["name=other"]),
        ("settings", ["sql=/any/folder"]),
        ("settings", ['raw=[{"path": "/etc"}]']),
        ("settings", ['publishing.stores=[{"kind": "parquet"}]']),
        ("settings", ["publishing={}"]),
        ("settings", ["training.epochs=2"] * 51),
        ("settings", ["training.epochs=" + "2" * 500]),
        ("settings", "training.epochs=2"),
        ("force", "yes"),
    ],
)
def test_a_bad_parameter_is_refused_before_anything_runs(dags, name, value):
    parameter = dags["daily_aggregation"].params.get_param(name)
    with pytest.raises(ParamValidationError):
        parameter.resolve(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("business_date", None),
        ("business_date", "2017-12-10"),
        ("recipe", "complete_journey"),
        ("recipe", "fantasy_sports"),
        ("days", 365),
        ("settings", ["training.epochs=2", "publishing.max_drift=0.5"]),
        ("settings", None),
    ],
)
def test_a_good_parameter_is_taken(dags, name, value):
    assert dags["daily_aggregation"].params.get_param(name).resolve(value) == value


def test_the_form_offers_the_deployments_own_recipe_the_shipped_ones_and_those_allowed(monkeypatch):
    monkeypatch.setenv("LUMOS_RECIPE", "acme.own:recipe")
    monkeypatch.setenv("LUMOS_ALLOWED_RECIPES", " acme.other:recipe ,")
    offered = form()["recipe"].schema["enum"]
    assert offered == ["acme.own:recipe", *shipped(), "acme.other:recipe"]
    assert not any(name.startswith("acme") for name in sys.modules)


@pytest.mark.parametrize("entry", ["os", "a b:c", "../x:y", "a:b;c"])
def test_a_list_of_recipes_that_names_none_fails_at_parse_with_a_sentence(monkeypatch, entry):
    monkeypatch.setenv("LUMOS_ALLOWED_RECIPES", entry)
    with pytest.raises(ValueError, match="in LUMOS_RECIPE or LUMOS_ALLOWED_RECIPES is not a recip"):
        form()
