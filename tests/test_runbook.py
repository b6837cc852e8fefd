"""The runbook: whoever is paged finds the section, and what stands in it can be typed."""

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys

import pytest
from airflow.cli.cli_parser import get_parser
from airflow.dag_processing.dagbag import DagBag
from lumos_airflow.alerts import names

from lumos import codes
from lumos.cli import main, parser
from lumos.monitor.names import MONITORS, runbook_link
from lumos.recipes import load
from lumos.serve.gate import Measures, verdicts
from lumos.serve.manifest import read_scores
from lumos.serve.rolls import Compared
from lumos.settings import REPOSITORY
from tests.conftest import enter
from tests.runbook import RUNBOOK, blocks, commands, sections
from tests.serve.lake import write_lake
from tests.serve.models import crown, register

DOCS = [RUNBOOK, REPOSITORY / "docs" / "backfill.md"]
VALUES = {
    "$DATE": "2026-01-05",
    "$FROM": "2026-01-01",
    "$TO": "2026-01-05",
    "$VERSION": "3",
    "$RECIPE": "gym",
    "$TABLE": "activity",
    "$USERS_FILE": "users.txt",
}
_LABELS = ("Means", "Affected", "Check", "Do", "Wake")


def filled(line: str) -> str:
    for name, value in VALUES.items():
        line = line.replace(name, value)
    return line


@pytest.fixture(scope="module")
def bag() -> DagBag:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUMOS_PLATFORM", "local")
        return DagBag(str(REPOSITORY / "dags"))


def test_every_task_that_can_be_red_has_its_section(bag):
    tasks = {task.task_id.replace("_", "-") for dag in bag.dags.values() for task in dag.tasks}
    assert tasks - set(sections()) == set()


def test_every_dated_dag_that_can_be_late_has_its_section(bag):
    dated = {name for name, dag in bag.dags.items() if name != "retract_scores"}
    assert {f"late-{name.replace('_', '-')}" for name in dated} - set(sections()) == set()


def test_every_alert_has_its_section():
    assert set(names()) - set(sections()) == set()


def test_every_monitor_has_its_section():
    assert {runbook_link(name).partition("#")[2] for name in MONITORS} - set(sections()) == set()


def test_every_exit_code_is_explained():
    known = {value for name, value in vars(codes).items() if name.isupper()}
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", sections()["exit-codes"], re.M)}
    assert told == known


def test_every_gate_of_publishing_is_named():
    recipe = load("complete_journey")
    errors = {task.name: 0.0 for task in recipe.tasks}
    measured = verdicts(recipe, Measures(), Compared(1, 1, 0, 0), errors, "1", [])
    gates = {metric.name.rpartition(".")[2] for metric in measured}
    assert {gate for gate in gates if f"`{gate}`" not in sections()["publish"]} == set()


@pytest.mark.parametrize("name", sorted(sections()))
def test_a_section_says_what_it_means_and_what_to_do(name):
    text = sections()[name]
    places = [text.find(f"**{label}.**") for label in _LABELS]
    assert -1 not in places, name
    assert places == sorted(places), name


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_every_link_within_the_documents_leads_somewhere(path):
    for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", path.read_text(encoding="utf-8")):
        there = path if not target else path.parent / target
        headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, anchor
    for target in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize(
    "command",
    sorted({filled(line) for path in DOCS for line in commands(path.read_text(encoding="utf-8"))}),
)
def test_every_command_parses(command):
    program, *arguments = shlex.split(command)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            if program == "lumos":
                parser().parse_args(arguments)
            elif program == "airflow":
                get_parser().parse_args(arguments)
            elif program == "python":
                compile(arguments[arguments.index("-c") + 1], command, "exec")
            else:
                pytest.fail(f"nobody checks {program!r}: {command}")
        except SystemExit:
            pytest.fail(f"{command}: {said.getvalue()}")


def test_a_corrupted_table_goes_back_by_the_runbooks_own_commands(tmp_path):
    """What the section says, typed on a table with a bad commit on top."""
    import pyarrow as pa

    from lumos.delta import read, replace

    uri = str(tmp_path / "gym" / "activity")
    good = pa.table({"day": [1, 2], "visits": [3.0, 4.0]})
    version = replace(uri, good, where=None)
    replace(uri, good.slice(0, 0), where=None)
    values = {"$LAKE": str(tmp_path), "$RECIPE": "gym", "$TABLE": "activity"}
    values["$VERSION"] = str(version)
    printed = []
    for line in re.findall(r"^python -c .+$", sections()["corrupted-table"], re.MULTILINE):
        for name, value in values.items():
            line = line.replace(name, value)
        argv = [sys.executable, *shlex.split(line)[1:]]
        printed.append(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    assert len(printed) == 2
    assert f"{version} " in printed[0]
    assert read(uri).sort_by("day").equals(good)


def test_wrong_scores_and_a_user_to_be_forgotten_are_gone_by_the_runbooks_own_commands(
    tmp_path, monkeypatch, capfd
):
    world = enter(write_lake(tmp_path / "home", num_users=40), monkeypatch)
    register(world, seed=1)
    world.run("evaluate")
    crown(world, "1")
    for verb in ("score", "publish"):
        world.run(verb)
    user = "m-003é"
    (tmp_path / "users.txt").write_text(user)
    values = {"$DATE": str(world.date), "$USERS_FILE": str(tmp_path / "users.txt")}
    typed = [
        line for name in ("rollback-of-scores", "erase-a-user") for line in blocks(sections()[name])
    ]
    assert [line.split()[1] for line in typed] == ["retract", "publish", "erase", "erase", "export"]
    said = []
    for line in typed[:-1]:  # the last one is for recipes with stores
        for name, value in values.items():
            line = line.replace(name, value)
        assert main(shlex.split(line)[1:]) == codes.DONE
        said.append(json.loads(capfd.readouterr().out.splitlines()[-1]))
    assert said[0]["details"]["reason"] == "what is wrong"
    recipe = load(world.recipe_name)
    scores = read_scores(world.settings, recipe, today=world.date)
    assert said[2]["details"]["rows"]["scores"] == 1  # it is published again, and then without
    assert user not in scores["user_id"].to_pylist()
