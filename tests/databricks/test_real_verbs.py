"""The real wheel and the real verbs, Spark included, on the gym's tables."""

import os
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumos import ledger
from lumos.recipes import load
from tests.conftest import RECIPE
from tests.databricks.deployment import Task
from tests.test_wheel import build, copied


@pytest.fixture(scope="module")
def real_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(copied(tmp_path_factory.mktemp("real") / "repository"))


@pytest.fixture
def world(deploy, real_wheel, gym_raw, monkeypatch):
    """The gym's raw tables; what runs on the cluster finds them by `[environment]`."""
    names = ("LUMOS_HOME", "LUMOS_LAKE", "LUMOS_RECIPE", "MLFLOW_TRACKING_URI")
    deploy(wheels=[real_wheel], environment={name: gym_raw.environment[name] for name in names})
    monkeypatch.setenv("LUMOS_ALLOWED_RECIPES", RECIPE)
    return gym_raw


def task(world, verb: str, **options: str) -> Task:
    return Task(
        verb=verb,
        run_id=f"scheduled__{world.home}",
        arguments={"recipe": RECIPE, "date": world.date.isoformat(), "options": options},
    )


def test_aggregate_runs_on_spark_and_its_table_is_entered_as_ready(world):
    report = task(world, "aggregate", days="5").run()
    assert report["verb"] == "aggregate"
    assert {table["table"] for table in report["tables"]} >= {"activity", "users"}
    entry = ledger.find(world.settings, load(RECIPE), "activity", world.date)
    assert entry is not None
    assert entry.verdict == ledger.READY


def test_a_verb_that_lacks_its_table_fails_for_good_with_its_own_sentence(world):
    with pytest.raises(AirflowFailException, match=r"bad input.*lumos aggregate"):
        task(world, "sequences").run()


PRINTABLE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: "\0" not in text
)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(PRINTABLE, min_size=1, max_size=4))
def test_arguments_arrive_in_the_verb_as_they_were_given(deployed, changes):
    nasty = ["$(touch /tmp/x)", 'it\'s "quoted"\n{{job.id}}', "ü" * 10_000]
    given = {f"text-{number}": text for number, text in enumerate((*nasty, *changes))}
    arguments = {"options": given}
    report = Task(arguments=arguments, run_id=f"scheduled__{os.urandom(8).hex()}").run()
    sent = [text for text in report["details"]["arguments"] if text.startswith("--text-")]
    assert sent == [f"--{name}={text}" for name, text in given.items()]
