"""The DAGs through a real scheduler, on the tiny world: the daily path as on-call sees it."""

import httpx
import pyarrow as pa

from lumos import ledger
from lumos.recipes import load
from tests.live.night import LIVE, NEXT_DAY, NUM_SHARDS, PATIENCE_SECONDS, finish, rows

pytestmark = LIVE


def test_a_score_task_killed_with_9_is_retried_and_publishes_the_same_rows(
    airflow, live_world, published
):
    scoring, undisturbed = published
    tries = {task.task_id: task.try_number for task in airflow.tasks([scoring])}
    assert (tries["score"], tries["publish"]) == (2, 1)
    said = airflow.xcom(scoring, "score")["details"]
    assert said["num_shards"] == len(said["shards"]) == NUM_SHARDS
    assert 0 < said["num_shards_done_before"] <= NUM_SHARDS
    settings = live_world.settings
    assert sum(said["shards"]) == rows(settings, "forecasts", live_world.date).num_rows
    keys = [("user_id", "ascending"), *_other_keys(undisturbed)]
    assert undisturbed.num_rows > 0
    assert rows(settings, "scores", live_world.date).sort_by(keys).equals(undisturbed.sort_by(keys))


def _other_keys(table: pa.Table) -> list[tuple[str, str]]:
    return [(name, "ascending") for name in ("task", "horizon_day") if name in table.column_names]


def test_a_run_that_a_retry_cannot_help_is_not_retried(airflow, begun):
    long_ago = begun["long_ago"]
    assert airflow.wait([long_ago], timeout_seconds=PATIENCE_SECONDS)[long_ago] == "failed"
    task = next(task for task in airflow.tasks([long_ago]) if task.task_id == "aggregate")
    assert (task.state, task.try_number) == ("failed", 1)
    _, lines = airflow.log(task)
    assert any("bad input, which a retry cannot mend" in line for line in lines)
    assert any("-m lumos aggregate" in line and "--days=3" in line for line in lines)


def test_a_backfill_of_the_next_day_publishes_it(airflow, live_world, next_day):
    tasks = finish(airflow, next_day)
    # No challenger is registered beside the champion, and the gym has no stores.
    skipped = {task.task_id for task in tasks if task.state == "skipped"}
    assert skipped == {"export", "shadow", "promote"}
    assert {task.state for task in tasks} == {"success", "skipped"}
    recipe = load("gym_world.recipe:recipe")
    for table in ("activity", "sequences", "quality", "manifests", "embeddings", "effects"):
        entry = ledger.find(live_world.settings, recipe, table, NEXT_DAY)
        assert entry is not None, table
        assert entry.verdict == ledger.READY
    assert rows(live_world.settings, "scores", NEXT_DAY).num_rows > 0


def test_the_task_log_names_the_business_date_first_and_streams_the_verb(airflow, next_day):
    task = next(task for task in airflow.tasks([next_day[0]]) if task.task_id == "aggregate")
    _, lines = airflow.log(task)
    said = [line for line in lines if "::" not in line]
    business_date = next(n for n, line in enumerate(said) if "business date" in line)
    assert f"business date {NEXT_DAY}, recipe gym_world.recipe:recipe" in said[business_date]
    assert any("-m lumos aggregate" in line for line in said[business_date:])


def test_training_leaves_no_scratch_folder_behind(live_world, published):
    assert list((live_world.home / "scratch").iterdir()) == []


def test_the_page_of_an_experiment_is_for_who_has_logged_in(airflow, begun, next_day):
    run = begun["ab_metrics"]
    task = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/review"
    page = airflow.call("GET", f"{task}/links")["extra_links"]["Experiment page"]
    with httpx.Client(base_url=airflow.url) as browser:
        assert browser.get(page).status_code == 401
        assert browser.get("/lumos/health").status_code == 401
        who = {"username": "admin", "password": airflow.password}
        token = browser.post("/auth/token", json=who).json()["access_token"]
        browser.cookies.set("_token", token)
        shown = browser.get(page)
        assert (shown.status_code, "towels_aa" in shown.text) == (200, True)
        assert (
            browser.get(page.replace("index.html", "%2e%2e/%2e%2e/index.html")).status_code == 404
        )


def test_no_dag_has_an_import_error(airflow):
    assert airflow.call("GET", "/importErrors")["import_errors"] == []
