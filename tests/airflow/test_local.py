import datetime as dt
import json
import os
import signal
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from lumos_airflow.operators.local import (
    LocalRanksOperator,
    LocalVerbOperator,
)

from lumos.cli import parser, request_from
from lumos.settings import Settings
from lumos.verbs import BadInput

PRETEND = str(Path(__file__).parent.parent / "host" / "pretend.py")
ACTIVITY = Asset(name="activity", uri="lumos://lake/activity")


class Pretend(LocalVerbOperator):
    """The real operator around another program."""

    def launcher(self) -> list[str]:
        return [sys.executable, PRETEND, *self.options.values()]


def operator(
    *what: str, kind: type = Pretend, verb: str = "score", **keywords
) -> LocalVerbOperator:
    return kind(
        task_id="task",
        verb=verb,
        options={f"option-{number}": word for number, word in enumerate(what)},
        date="2017-12-10",
        recipe="complete_journey",
        overrides="[]",
        **keywords,
    )


def context() -> dict:
    """What Airflow gives to ``execute``, as far as the operator looks at it."""
    pushed: dict = {}
    return {
        "ti": SimpleNamespace(xcom_push=pushed.__setitem__, pushed=pushed),
        "outlet_events": defaultdict(lambda: SimpleNamespace(extra={})),
    }


def test_the_report_is_the_xcom_and_the_outlets_say_what_they_stand_for():
    given = context()
    report = operator("report", outlets=[ACTIVITY]).execute(given)
    assert report["verb"] == "pretend"
    assert given["ti"].pushed["process_seconds"] > 0
    assert given["outlet_events"][ACTIVITY].extra == {
        "business_date": "2017-12-10",
        "recipe": "complete_journey",
        "table": "activity",
        "version": 3,
        "rows": 5,
    }


@pytest.mark.parametrize(
    ("code", "kind", "sentence"),
    [
        ("1", AirflowException, "ended with exit code 1: .*the sentence for people"),
        ("75", AirflowException, "ended with exit code 75: .*the sentence for people"),
        ("2", AirflowFailException, "bad input, which a retry cannot mend: .*for people"),
        ("3", AirflowFailException, "the gate of lumos score refused: .*for people"),
    ],
)
def test_only_a_fault_is_retried(code, kind, sentence):
    with pytest.raises(kind, match=sentence) as caught:
        operator("exit", code).execute(context())
    assert type(caught.value) is kind  # AirflowFailException is an AirflowException too


def test_a_killed_verb_is_a_fault_that_names_the_signal():
    with pytest.raises(AirflowException, match="ended with signal 9") as caught:
        operator("kill-self").execute(context())
    assert type(caught.value) is AirflowException


def test_a_verb_without_a_report_fails_with_what_it_said():
    with pytest.raises(AirflowFailException, match="'not JSON at all'"):
        operator("chatter").execute(context())


def test_the_child_sees_none_of_airflows_settings(monkeypatch):
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "secret")
    monkeypatch.setenv("LUMOS_HOME", "/tmp/somewhere")
    seen = operator("environment").execute(context())
    assert seen["LUMOS_HOME"] == "/tmp/somewhere"
    assert not any(name.startswith("AIRFLOW__") for name in seen)


def test_the_verb_hears_who_started_the_run():
    seen = operator("environment", actor="kim").execute(context())
    assert Settings.from_environment(seen).actor == "kim"
    assert "dag_run.triggering_user_name" in operator("environment").actor
    assert "actor" in Pretend.template_fields


def test_killing_the_task_ends_the_verb(tmp_path):
    task = operator("family", str(tmp_path))
    # As Airflow does on "mark failed": SIGTERM to the task, whose handler calls on_kill.
    before = signal.signal(signal.SIGTERM, lambda *_: task.on_kill())

    def kill_when_up() -> None:
        while not (tmp_path / "own.pid").exists():
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=kill_when_up)
    thread.start()
    try:
        with pytest.raises(AirflowException, match="ended with signal 15"):
            task.execute(context())
    finally:
        signal.signal(signal.SIGTERM, before)
        thread.join()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"recipe": "os:abort"}, "recipe 'os:abort' is not allowed here: allowed are complete_jou"),
        ({"recipe": "airflow.utils.db:resetdb"}, "is not allowed here"),
        ({"recipe": "gym_world.recipe:recipe"}, "LUMOS_ALLOWED_RECIPES of all components"),
        ({"recipe": "../../etc/passwd"}, "is not allowed here"),
        ({"recipe": "x" * 10_000}, r"recipe 'x{60}\.\.\.' is not allowed here"),
        ({"overrides": '["name=other"]'}, "override 'name=other' is not allowed in a run"),
        ({"overrides": '["sql=/any/folder"]'}, "is not allowed in a run of Airflow"),
        ({"overrides": '["raw=[]"]'}, "is not allowed in a run of Airflow"),
        ({"overrides": '["timezone=UTC"]'}, "is not allowed in a run of Airflow"),
        ({"overrides": '["publishing.stores=[]"]'}, "is not allowed in a run of Airflow"),
        ({"overrides": '["publishing.max_driftx=1"]'}, "is not allowed in a run of Airflow"),
        ({"overrides": '["publishing={}"]'}, "is not allowed in a run of Airflow"),
        ({"overrides": '["training={}"]'}, "is not allowed in a run of Airflow"),
        ({"overrides": "[7]"}, "overrides are a list of KEY.PATH=VALUE"),
        ({"overrides": '{"a": 1}'}, "overrides are a list of KEY.PATH=VALUE"),
        ({"overrides": json.dumps(["training.epochs=" + "9" * 600])}, "longer than 500 characters"),
        ({"overrides": json.dumps(["training.epochs=1"] * 51)}, "51 overrides are too many"),
    ],
)
def test_what_a_run_may_not_ask_for_is_refused_before_anything_is_imported_or_started(
    changed, sentence
):
    before, task = set(sys.modules), operator("report")
    for name, value in changed.items():
        setattr(task, name, value)
    for ask in (task.execute, lambda _: task.request()):
        with pytest.raises(AirflowFailException, match=sentence) as caught:
            ask(context())
        assert len(str(caught.value)) < 600
    assert not {"gym_world.recipe", "airflow.utils.db"} & (set(sys.modules) - before)


def test_a_verb_of_airflow_refuses_what_the_deployment_does_not_allow_as_well(monkeypatch):
    seen = Settings.from_environment(operator("environment").execute(context()))
    assert seen.allowed_recipes == "complete_journey,fantasy_sports"
    monkeypatch.setenv("LUMOS_ALLOWED_RECIPES", seen.allowed_recipes)
    with pytest.raises(BadInput, match="recipe 'os:abort' is not allowed here"):
        request_from(parser().parse_args(["doctor", "--recipe=os:abort"]), dt.datetime.now(dt.UTC))


def test_arguments_are_a_list_so_no_shell_ever_reads_them(monkeypatch):
    monkeypatch.setenv("LUMOS_ALLOWED_RECIPES", "gym_world.recipe:recipe")
    task = LocalVerbOperator(
        task_id="task",
        verb="aggregate",
        options={"days": "3", "experiment": ""},
        switches={"allow-empty": "True", "force": "False"},
        date="2017-12-10",
        recipe="gym_world.recipe:recipe",
        overrides='["training.epochs=2; rm -rf /"]',
    )
    assert task.arguments == [
        "aggregate",
        "--recipe=gym_world.recipe:recipe",
        "--date=2017-12-10",
        "--days=3",
        "--allow-empty",
        "--set=training.epochs=2; rm -rf /",
    ]


def test_torchrun_starts_as_many_ranks_as_the_recipe_and_its_overrides_say():
    train = operator(kind=LocalRanksOperator, verb="train")
    assert train.launcher()[-4:] == ["--nproc-per-node", "2", "-m", "lumos"]
    score = operator(kind=LocalRanksOperator)
    score.overrides = '["scoring.processes=3", "training.processes=5"]'
    assert score.launcher()[-4:] == ["--nproc-per-node", "3", "-m", "lumos"]


def test_one_rank_is_plain_python():
    assert operator(kind=LocalRanksOperator).launcher() == [sys.executable, "-m", "lumos"]
    train = operator(kind=LocalRanksOperator, verb="train")
    train.overrides = '["training.processes=1"]'
    assert train.launcher() == [sys.executable, "-m", "lumos"]


def test_an_unknown_recipe_fails_the_training_before_it_starts():
    task = operator(kind=LocalRanksOperator)
    task.recipe = "nobody"
    with pytest.raises(AirflowFailException, match="recipe 'nobody' is not allowed"):
        task.launcher()
