"""Whose data is erased or given, and where else it may stand."""

import io
import json
import stat

import pytest

from lumos import stored
from lumos.erase.beyond import BEYOND
from lumos.settings import REPOSITORY
from lumos.verbs import BadInput
from tests.erase.looking import GYM, TODAY, USER, YESTERDAY, naming, rows

pytestmark = pytest.mark.xdist_group("erase")


def test_a_user_gets_every_row_that_is_kept_of_them_and_none_of_others(world, tmp_path):
    others = rows(world, without=USER)
    report = world.run("export-user", users_file=None, user=[USER], to=str(tmp_path / "theirs"))
    given = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "theirs").glob("*.jsonl")
    }
    kept = {name: len(found) - len(others[name]) for name, found in rows(world).items()}
    assert {name: number for name, number in kept.items() if number} == {
        name: len(found) for name, found in given.items() if name in kept
    }
    assert {"sequences", "forecasts", "scores", "embeddings"} <= given.keys()
    assert all(USER in json.dumps(row, ensure_ascii=False) for f in given.values() for row in f)
    assert {row["as_of"] for row in given["scores"]} == {str(YESTERDAY), str(TODAY)}
    assert report.details["rows"] == {name: len(found) for name, found in given.items()}
    assert stat.S_IMODE((tmp_path / "theirs").stat().st_mode) == 0o700
    with pytest.raises(BadInput, match="exists: name a new folder"):
        world.run("export-user", user=[USER], to=str(tmp_path / "theirs"))


def test_exports_and_notes_of_failed_trainings_name_nobody_who_was_erased(world):
    for user in (USER, "m-004é"):
        world.run("export-user", user=[user])
        folder = world.home / "exports" / "gym"
        folder.rename(folder.with_name(f".gym-{user}"))  # as one that was killed leaves it
    note = world.home / "train" / "gym" / "abc" / "not-finite-3-rank-0.json"
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"users": [USER, "m-004é"]}))
    (note.parent / ".draft-not-finite-4-rank-0.json").write_text(note.read_text()[:-3])
    world.run("erase", user=[USER])
    assert naming(world.home, USER) == []
    assert [name for name in naming(world.home, "m-004é") if name.startswith("exports/.gym-m-004")]


def test_nothing_is_written_for_a_user_of_whom_nothing_is_kept(world, tmp_path):
    with pytest.raises(BadInput, match="nothing is kept of 1 users"):
        world.run("export-user", user=["never seen"], to=str(tmp_path / "theirs"))
    assert list(tmp_path.iterdir()) == [world.home]


def test_ids_are_read_from_a_file_or_stdin_so_that_no_list_of_processes_shows_them(
    world, tmp_path, monkeypatch
):
    listed = tmp_path / "users.txt"
    listed.write_bytes(f"\ufeff{USER}\r\nm-005\n\n".encode())
    report = world.run("erase", users_file=str(listed), dry_run=True)
    assert report.details["num_users"] == 2
    assert report.details["rows"]["scores"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{USER}\n".encode())))
    assert world.run("erase", users_file="-").details["num_users"] == 1
    assert naming(world.home, USER) == []


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff\xfe\x00", "cannot be read: it is not UTF-8"),
        (b"\n\n", "name the users: lumos erase --users-file PATH"),
    ],
)
def test_a_list_that_names_no_one_is_refused(world, tmp_path, data, sentence):
    if data is not None:
        (tmp_path / "users.txt").write_bytes(data)
    with pytest.raises(BadInput, match=sentence):
        world.run("erase", users_file=str(tmp_path / "users.txt"))


def test_one_call_erases_from_every_recipe_of_the_lake(world):
    other = GYM.model_copy(update={"name": "other_gym"})
    stored.store(world.settings, "gym_world.other:recipe", other)
    lake = world.home / "lake"
    (lake / "other_gym").mkdir()
    for name in ("forecasts", "sequences"):
        (lake / "gym" / name).rename(lake / "other_gym" / name)
    report = world.run("erase", user=[USER], all_recipes=True)
    assert report.details["other_recipes"]["other_gym"]["rows"].keys() == {"forecasts", "sequences"}
    assert naming(world.home, USER) == []


def test_the_report_and_the_manual_name_every_place_that_is_not_reached(world):
    report = world.run("erase", user=[USER], dry_run=True)
    assert [each["place"] for each in report.details["not_reached"]] == [b.place for b in BEYOND]
    manual = (REPOSITORY / "docs" / "operate.md").read_text()
    for each in BEYOND:
        assert f"| {each.place} | {each.holds} | {each.retention} |" in manual
