import json

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from lumos_airflow.operators.local import LocalVerbOperator
from lumos_airflow.shadowing import skip_without_challenger


class Pulled:
    """What `resolve` left as its XCom."""

    def __init__(self, **versions: str | None) -> None:
        self.versions = versions

    def xcom_pull(self, task_ids: str) -> dict:
        assert task_ids == "resolve"
        return {"details": self.versions}


def context(*changes: str, **versions: str | None) -> dict:
    task = LocalVerbOperator(
        task_id="shadow",
        verb="shadow",
        recipe="complete_journey",
        date="2017-12-10",
        overrides=json.dumps(changes),
    )
    return {"task": task, "ti": Pulled(**versions)}


WANTED = "evaluation.shadow_days=3"


def test_a_challenger_beside_the_champion_forecasts_if_the_recipe_asks_for_shadow_days():
    skip_without_challenger(context(WANTED, champion="1", challenger="2"))


def test_without_shadow_days_no_machine_is_started_for_a_challenger():
    with pytest.raises(AirflowSkipException, match="shadow_days is 0"):
        skip_without_challenger(context(champion="1", challenger="2"))


@pytest.mark.parametrize("challenger", [None, "1"])
def test_without_a_challenger_beside_the_champion_nothing_is_started(challenger):
    with pytest.raises(AirflowSkipException, match="no challenger beside version 1"):
        skip_without_challenger(context(WANTED, champion="1", challenger=challenger))
