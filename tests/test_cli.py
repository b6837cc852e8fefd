"""The command line keeps its contract: exit codes, sentences, and one JSON line on stdout."""

import datetime as dt
import importlib
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from lumos.cli import VERBS, Verb, main, parser, request_from
from lumos.verbs import BadInput, GateRefused, Report
from tests.conftest import RECIPE, World, enter

NOW = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
def world(tmp_path, monkeypatch):
    return enter(World(tmp_path / "home"), monkeypatch)


def request(*arguments):
    return request_from(parser().parse_args(list(arguments)), NOW)


def speak(request):
    """A verb whose libraries talk: Python's print, and a child that inherits the descriptor."""
    print("python says hello")  # noqa: T201
    sys.stdout.flush()
    subprocess.run(["/bin/echo", "a child says hello"], check=True)
    return request.report(details={"said": True})


def give_up(request):
    raise BadInput("given a stone, expected bread; bring bread")


def refuse(request):
    raise GateRefused("sales has 3 values below 0")


def stumble(request):
    raise ConnectionError("the network blinked")


def verb(monkeypatch, name):
    monkeypatch.setitem(VERBS, name, Verb(f"{__name__}:{name}", "", needs_date=False))
    return name


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("speak", 0, ""),
        ("stumble", 1, "failed (ConnectionError: the network blinked); a retry may help"),
        ("give_up", 2, "given a stone, expected bread; bring bread"),
        ("refuse", 3, "refused: sales has 3 values below 0"),
    ],
)
@pytest.mark.usefixtures("world")
def test_each_way_to_end_has_its_exit_code(name, code, said, monkeypatch, caplog, capfd):
    assert main([verb(monkeypatch, name)]) == code
    assert said in caplog.text
    out = capfd.readouterr().out
    assert (out == "") is (code != 0)


@pytest.mark.usefixtures("world")
def test_stdout_is_one_json_line_whatever_libraries_print(monkeypatch, capfd):
    assert main([verb(monkeypatch, "speak")]) == 0
    captured = capfd.readouterr()
    (line,) = captured.out.splitlines()
    report = Report.model_validate_json(line)
    assert (report.verb, report.recipe, report.details) == ("speak", "gym", {"said": True})
    assert "python says hello" in captured.err
    assert "a child says hello" in captured.err


@pytest.mark.usefixtures("world")
def test_only_the_first_rank_reports(monkeypatch, capfd):
    monkeypatch.setenv("RANK", "1")
    assert main([verb(monkeypatch, "speak")]) == 0
    assert capfd.readouterr().out == ""


def test_a_process_ends_with_the_code_and_the_line(world):
    world.home.mkdir()
    command = [sys.executable, "-m", "lumos", "validate", "--date", "2024-05-10"]
    done = subprocess.run(
        command, env=world.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "activity of recipe gym is not ready for 2024-05-10" in done.stderr
    assert "Run `lumos aggregate" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["validate"], "lumos validate needs --date YYYY-MM-DD"),
        (["validate", "--date", "2024-13-01"], "written as YYYY-MM-DD"),
        (["validate", "--date", "20240510"], "written as YYYY-MM-DD"),
        (["validate", "--date", "2024-06-02"], "lies in the future"),
        (["validate", "--date", "0024-05-10"], "lies before 1970-01-01"),
        (["validate", "--date", "2024-05-10", "--recipe", "gim"], "recipe 'gim' is unknown"),
        (["land", "--set", "training.epoch=2"], "'training.epoch' is no field of a recipe"),
        (["land", "--set", "training.epochs=two"], "training.epochs: Input should be a valid int"),
        (["land", "--set", "training.epochs"], "is not KEY.PATH=VALUE"),
        (["land", "--set", "training.epochs=-1"], "greater than or equal to 1"),
        (["land", "--set", "training=3"], "training: Input should be a valid dictionary"),
    ],
)
@pytest.mark.usefixtures("world")
def test_bad_input_is_said_before_any_work(arguments, complaint):
    with pytest.raises(BadInput, match=complaint):
        request(*arguments)


@pytest.mark.parametrize(
    "name", [name for name, verb in VERBS.items() if verb.needs_date and not verb.takes_future]
)
@pytest.mark.usefixtures("world")
def test_no_verb_works_on_a_day_that_is_not_over_where_the_platform_is(name):
    # The gym is in Kolkata, where it is 23:59:59 of the day, and then midnight.
    end = dt.datetime(2024, 5, 10, 18, 30, tzinfo=dt.UTC)
    arguments = parser().parse_args([name, "--date", "2024-05-10"])
    with pytest.raises(BadInput, match="ends at 2024-05-11 00:00 there, 2024-05-10 18:30 UTC"):
        request_from(arguments, end - dt.timedelta(seconds=1))
    assert request_from(arguments, end).date == dt.date(2024, 5, 10)


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.needs_date])
@pytest.mark.usefixtures("world")
def test_no_verb_that_needs_a_date_guesses_one(name):
    with pytest.raises(BadInput, match=f"lumos {name} needs --date"):
        request(name)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["aggregate", "--days", "0"], "'0' is not a whole number from 1 to 5000"),
        (["aggregate", "--days", "many"], "'many' is not a whole number"),
        (["doctor", "--port", "65536"], "'65536' is not a whole number from 1 to 65535"),
        (["agregate"], "invalid choice: 'agregate'"),
        (["validate", "--days", "3"], "unrecognized arguments: --days 3"),
        ([], "required: VERB"),
    ],
)
def test_a_command_line_that_cannot_be_read_ends_with_2(arguments, complaint, capfd):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    captured = capfd.readouterr()
    assert complaint in captured.err
    assert captured.out == ""


def test_an_unknown_platform_is_refused_with_the_choices(world, monkeypatch, caplog):
    monkeypatch.setenv("LUMOS_PLATFORM", "azure")
    assert main(["land", "--date", "2024-05-10"]) == 2
    assert "platform: Input should be 'local' or 'aws'" in caplog.text


@pytest.mark.parametrize("variable", ["LUMOS_LAKE", "LUMOS_HOME"])
def test_a_lake_below_a_file_is_refused_even_for_root(world, variable, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(variable, str(tmp_path / "file" / "lake"))
    with pytest.raises(BadInput, match=rf"file/lake is not a folder .* set {variable} to another"):
        request("validate", "--date", "2024-05-10")


@pytest.mark.usefixtures("world")
def test_a_lake_on_a_file_system_that_takes_no_files_is_refused(monkeypatch):
    monkeypatch.setenv("LUMOS_LAKE", "/proc/self")  # root has every right there, and no way
    with pytest.raises(BadInput, match="/proc/self is not a folder that can be written to"):
        request("validate", "--date", "2024-05-10")


@pytest.mark.parametrize("name", ["a%20b", "a[1]", "a\\b", "a^b", "a|b", "a\nb"])
@pytest.mark.parametrize("variable", ["LUMOS_LAKE", "LUMOS_STATES"])
def test_a_place_that_libraries_read_in_different_ways_is_refused(
    world, variable, name, tmp_path, monkeypatch
):
    monkeypatch.setenv(variable, str(tmp_path / name / "lake"))
    with pytest.raises(BadInput, match=f"{variable}=.*do not take as a part of a name"):
        request("validate", "--date", "2024-05-31")
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["my lake", "100% é", "{a}*?", "a#b", "a?b", "a:b", "日本"])
def test_a_uri_of_a_local_folder_is_its_path(world, name, tmp_path, monkeypatch):
    place = tmp_path / name / "lake"
    for given in (str(place), place.as_uri(), place.as_uri().replace("file://", "file:")):
        monkeypatch.setenv("LUMOS_LAKE", given)
        assert request("validate", "--date", "2024-05-31").settings.lake == str(place)


def test_a_lake_behind_a_uri_is_left_to_its_first_use(world, monkeypatch):
    monkeypatch.setenv("LUMOS_LAKE", "s3://bucket/lake/")
    world.home.mkdir()
    assert request("validate", "--date", "2024-05-10").settings.lake == "s3://bucket/lake"


@pytest.mark.usefixtures("world")
def test_values_of_set_are_json_where_they_can_be_and_text_otherwise():
    made = request(
        "land",
        "--set",
        "training.epochs=4",
        "--set",
        "timezone=Asia/Tokyo",
        "--set",
        "country=null",
    )
    assert made.recipe.training.epochs == 4
    assert made.recipe.timezone == "Asia/Tokyo"
    assert made.recipe.country is None


@pytest.mark.usefixtures("world")
def test_a_request_carries_the_flags_of_its_verb_only():
    assert request("aggregate", "--date", "2024-05-10", "--days", "7").options == {
        "days": 7,
        "allow_empty": False,
    }
    assert request("validate", "--date", "2024-05-10").options == {}
    assert request("validate", "--date", "2024-05-10", "--force").force
    assert request("land").date == NOW.date()


@pytest.mark.usefixtures("world")
def test_the_recipe_comes_from_the_command_line_first_and_then_from_the_environment():
    assert request("land").recipe.name == "gym"
    assert request("land", "--recipe", "complete_journey").recipe.name == "complete_journey"
    assert RECIPE.endswith(":recipe")


def test_every_verb_names_a_module_of_the_package():
    for name, declared in VERBS.items():
        module, function = declared.function.split(":")
        assert importlib.util.find_spec(module), name
        assert function == name.replace("-", "_")
        assert declared.help


def test_a_report_is_json_even_with_numbers_that_json_has_not(world):
    made = request("land").report(
        metrics={"loss": float("nan")}, details={"best": float("inf"), "path": str(Path("/x"))}
    )
    found = json.loads(made.model_dump_json(), parse_constant=pytest.fail)
    assert found["metrics"] == {"loss": None}
    logging.getLogger("lumos").info("%s", found)
