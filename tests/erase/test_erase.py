"""A user who is erased stands in no file any more, and nobody else lost anything."""

import datetime as dt
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from lumos import ledger
from lumos.delta import data_files, open_table, read, replace
from lumos.erase import run as erasing
from lumos.erase.places import Users, places, raw_columns
from lumos.erase.remove import remove
from lumos.erase.scan import scan
from lumos.serve.manifest import LIVE, RETRACTED, SUPERSEDED, read_manifests, rows_of
from lumos.settings import REPOSITORY
from lumos.tables import ALERTS, alerts_uri, tables
from lumos.verbs import BadInput, TableWritten
from tests.conftest import World
from tests.erase.looking import GYM, TODAY, USER, YESTERDAY, about_users, naming, rows, uri
from tests.serve.lake import DATES
from tests.serve.lake import enter as enter_ledger
from tests.serve.publications import with_column

pytestmark = pytest.mark.xdist_group("erase")


def published(world: World) -> dict[tuple[dt.date, str], pa.Table]:
    """What each live manifest vouches for; reading it checks it."""
    return {
        (each.as_of, each.state): rows_of(world.settings, GYM, each)
        for each in read_manifests(world.settings, GYM)
        if each.state == LIVE
    }


def test_an_erased_user_stands_in_no_file_and_everyone_else_is_as_before(world):
    assert naming(world.home, USER)
    others, before = rows(world, without=USER), published(world)

    report = world.run("erase", user=[USER])

    assert naming(world.home, USER) == []
    assert rows(world) == others
    assert report.details["rows"]["scores"] == 2
    after = published(world)
    assert set(after) == set(before) == {(date, LIVE) for date in DATES}
    for key, then in before.items():
        is_other = np.array(then["user_id"].to_pylist()) != USER
        assert after[key].equals(then.filter(pa.array(is_other)))
        assert then.num_rows == after[key].num_rows + 1


def test_the_report_and_the_log_do_not_name_the_user(world, caplog):
    caplog.set_level("INFO")
    report = world.run("erase", user=[USER])
    assert "rows removed" in caplog.text
    assert "003" not in caplog.text.replace(str(world.home), "")
    assert "003" not in report.model_dump_json().replace(str(world.home), "")


def test_an_erasure_is_audited_by_its_number_of_users_and_never_by_their_ids(world):
    with pytest.raises(BadInput, match="names a user who is to be forgotten"):
        world.run("erase", user=[USER], reason=f"asked for by {USER}")
    assert read(uri(world, "audit")) is None
    world.run("erase", user=[USER], reason="request 17")
    (row,) = read(uri(world, "audit")).to_pylist()
    assert (row["verb"], row["what"], row["why"]) == ("erase", "users erased: 1", "request 17")


def test_what_the_ledger_pins_can_be_read_and_counts_what_is_there(world):
    before = {
        (entry.table, entry.business_date): entry.rows
        for place in about_users()
        for entry in ledger.entries(world.settings, GYM, place.table)
    }
    world.run("erase", user=[USER])

    left = {
        (entry.table, entry.business_date): entry
        for place in about_users()
        for entry in ledger.entries(world.settings, GYM, place.table)
    }
    # `sequences` of yesterday was another whole table; only today's is the newest version.
    assert set(before) - set(left) == {("sequences", YESTERDAY)}
    for (name, date), entry in left.items():
        found = read(uri(world, name), version=entry.version)
        if found is None:  # in this lake only the ledger speaks of it
            continue
        if "as_of" in found.column_names:
            found = found.filter(pa.array(np.array(found["as_of"].to_pylist()) == date))
        theirs = before[name, date] - entry.rows
        assert theirs > 0, name
        if name != "embeddings":  # its entry counts days too
            assert found.num_rows == entry.rows, name
    (today,) = ledger.entries(world.settings, GYM, "sequences")
    scored = ledger.find(world.settings, GYM, "forecasts", TODAY)
    assert scored.inputs["sequences"] == today.version


def test_a_rerun_of_today_publishes_the_others_and_does_not_bring_the_user_back(world):
    world.run("erase", user=[USER])
    before = published(world)[TODAY, LIVE]
    for verb in ("score", "publish", "embed"):
        world.run(verb, date=TODAY)
    assert published(world)[TODAY, LIVE]["user_id"].equals(before["user_id"])
    assert naming(world.home, USER) == []


def test_a_superseded_publication_is_taken_back_as_its_rows_are_gone(world):
    assert [each.state for each in read_manifests(world.settings, GYM)] == [LIVE, SUPERSEDED, LIVE]
    world.run("erase", user=[USER])
    found = read_manifests(world.settings, GYM)
    assert sorted(each.state for each in found) == [LIVE, LIVE, RETRACTED]
    (gone,) = (each for each in found if each.state == RETRACTED)
    assert "erased" in gone.reason


def test_files_keep_their_order_and_their_row_groups(world):
    before = {}
    for file in data_files(DeltaTable(uri(world, "sequences"))):
        table = pq.read_table(Path(uri(world, "sequences")) / file.path)
        before[file.partition["bucket"]] = [u for u in table["user_id"].to_pylist() if u != USER]
    world.run("erase", user=[USER])
    for file in data_files(DeltaTable(uri(world, "sequences"))):
        table = pq.read_table(Path(uri(world, "sequences")) / file.path)
        assert table["user_id"].to_pylist() == before[file.partition["bucket"]]
        assert file.num_rows == table.num_rows


def test_a_rewritten_file_has_row_groups_of_the_same_size_and_encodings(tmp_path):
    target = str(tmp_path / "sequences")
    ids = [f"u-{number:04d}" for number in range(5000)]
    table = pa.table({"user_id": ids, "value": np.random.default_rng(1).random(5000)})
    replace(target, table, where=None)
    (file,) = data_files(DeltaTable(target))
    pq.write_table(table, Path(target) / file.path, row_group_size=1024, use_dictionary=["user_id"])
    users, place = Users(("u-0007", "u-4999")), places(GYM)[0]
    assert remove(target, place, scan(target, place, users), users) == 2
    (new,) = data_files(DeltaTable(target))
    parquet = pq.ParquetFile(Path(target) / new.path)
    sizes = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
    assert sizes == [1024, 1024, 1024, 1024, 4998 - 4096]
    assert [parquet.metadata.row_group(0).column(n).has_dictionary_page for n in range(2)] == [
        True,
        False,
    ]


def test_a_dry_run_says_what_there_is_and_changes_nothing(world):
    before = {p: p.stat().st_mtime_ns for p in world.home.rglob("*") if p.is_file()}
    report = world.run("erase", user=[USER], dry_run=True)
    assert report.details["rows"]["forecasts"] == 2 * GYM.horizon_days
    assert {p: p.stat().st_mtime_ns for p in world.home.rglob("*") if p.is_file()} == before


def test_erasing_twice_does_nothing_the_second_time(world):
    world.run("erase", user=[USER])
    versions = _versions(world)
    assert world.run("erase", user=[USER]).already_done
    assert _versions(world) == versions


def test_several_users_are_erased_at_once(world):
    world.run("erase", user=[USER, "m-004é"])
    assert naming(world.home, USER) + naming(world.home, "m-004é") == []


def test_a_user_whom_nothing_names_is_no_error(world):
    report = world.run("erase", user=["nobody"])
    assert report.already_done
    assert report.details["rows"] == {}


@pytest.mark.parametrize("users", [None, [], [""]])
def test_nobody_named_is_bad_input(world, users):
    with pytest.raises(BadInput, match="--user ID"):
        world.run("erase", user=users)


def test_nothing_is_erased_while_the_platform_still_holds_the_user(world):
    folder = Path(world.settings.lake) / "raw" / "gym"
    for name in ("purchases", "members"):
        (folder / name).mkdir(parents=True)
        (folder / name / "part-0.csv").write_text(f"member,age\n{USER},1\nm-004é,1\n")
    versions = _versions(world)
    with pytest.raises(BadInput, match=r"purchases \(1 rows\), members \(1 rows\)") as refused:
        world.run("erase", user=[USER])
    assert USER not in str(refused.value)
    assert _versions(world) == versions


def test_rejected_rows_of_the_user_are_erased_and_those_that_only_look_like_it_stay(world):
    schema = tables(GYM)["quarantine"].arrow_schema(GYM)
    kept = [
        ("checkins", {"member": "m-004é", "club": USER}),
        ("purchases", {"member": USER + "x"}),
        ("purchases", "no JSON"),
    ]
    gone = [("checkins", {"member": USER}), ("activity", {"user_id": USER, "num_days": 2})]
    made = [
        {
            "job": "aggregate",
            "day": TODAY,
            "reason": "late",
            "raw_table": raw_table,
            "row": row if isinstance(row, str) else json.dumps(row),
            "num_rows": 1,
        }
        for raw_table, row in kept + gone
    ]
    rejected = pa.Table.from_pylist(made, schema=schema)
    replace(uri(world, "quarantine"), rejected, where=None, partition=("job", "day"))
    assert world.run("erase", user=[USER]).details["rows"]["quarantine"] == 2
    left = read(uri(world, "quarantine"))["row"].to_pylist()
    assert sorted(left) == sorted(row["row"] for row in made[: len(kept)])


def test_every_column_that_names_users_is_known():
    """A contract table with a new column of users must not be forgotten here."""
    named = {place.table for place in places(GYM)}
    about_users = {
        table.name
        for table in (*tables(GYM).values(), ALERTS)
        if {"user_id", "id", "row", "message", "report"} & set(table.column_names)
    }
    assert named == about_users
    assert set(raw_columns(GYM)) == {"checkins", "purchases", "members"}


def test_what_a_killed_writer_left_goes_too_whatever_it_is_called(world):
    folder = Path(uri(world, "sequences"))
    rows = pa.table({"user_id": [USER]})
    for name in ("part-1.parquet#1", ".part-2.parquet", "_tmp/part-3.parquet"):
        path = folder / "bucket=0" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path)
    (folder / "bucket=0" / "part-4.parquet").write_bytes(b"PAR1 half a file")
    (folder / "_delta_log" / "00000000000000000099.json#1").write_text('{"add": {"stats": "{')
    before = set(folder.rglob("*"))

    world.run("erase", user=[USER])

    left = {path for path in set(folder.rglob("*")) & before if path.is_file()}
    assert not [path for path in left if "#" in path.name or path.name.startswith(("part-4", "."))]
    assert naming(world.home, USER) == []


def test_a_file_of_the_table_that_cannot_be_read_is_not_passed_over(world):
    folder = Path(uri(world, "sequences"))
    file = data_files(DeltaTable(str(folder)))[0]
    (folder / file.path).write_bytes(b"PAR1 half a file")
    with pytest.raises(BadInput, match="cannot be read as Parquet"):
        world.run("erase", user=[USER])


def test_sentences_that_give_the_user_as_an_example_name_nobody_any_more(world):
    """Checks say ``e.g. user_id ID``: in metrics, in the ledger's reports and in alerts."""
    said = f"activity: 2 rows, e.g. user_id {USER}, day 2024-05-10; user_id {USER}x, day"
    clean = said.replace(f"user_id {USER},", "user_id (erased),")
    metrics = read(uri(world, "metrics"))
    replace(
        uri(world, "metrics"), with_column(metrics, "message", [said] * len(metrics)), where=None
    )
    rows = pa.Table.from_pylist(
        [
            {
                field.name: said if field.name == "message" else None
                for field in ALERTS.arrow_schema()
            }
        ],
        schema=pa.schema([field.with_nullable(True) for field in ALERTS.arrow_schema()]),
    )
    replace(alerts_uri(world.settings), rows, where=None)
    request = world.request("validate")
    ledger.record(
        request,
        request.report(
            tables=(TableWritten(table="quality", version=0, rows=1),), details={"warnings": [said]}
        ),
        inputs={},
    )

    world.run("erase", user=[USER])

    assert set(read(uri(world, "metrics"))["message"].to_pylist()) == {clean}
    assert read(alerts_uri(world.settings))["message"].to_pylist() == [clean]
    entry = ledger.find(world.settings, GYM, "quality", world.date)
    assert entry.report.details["warnings"] == [clean]
    assert [name for name in naming(world.home, USER) if "metrics" in name or "alerts" in name]
    world.run("erase", user=[f"{USER}x"])
    assert naming(world.home, USER) == []


def test_nothing_is_erased_while_an_aggregation_is_half_done(world):
    target = uri(world, "activity")
    schema = pa.schema([("user_id", pa.string()), ("day", pa.date32())])
    rows = pa.table({"user_id": [USER, "a"], "day": [TODAY, TODAY]}, schema=schema)
    version = replace(target, rows, where=None, partition=("day",))
    for date in DATES:
        enter_ledger(world, "aggregate", "activity", date, version=version, rows=2)
    replace(target, rows.slice(1), where=None)  # and killed before it entered anything
    before = _versions(world)
    with pytest.raises(BadInput, match="an aggregation was interrupted"):
        world.run("erase", user=[USER])
    assert _versions(world) == before


def test_stopped_after_any_step_and_run_again_it_leaves_the_same(world, tmp_path, monkeypatch):
    twin = world.copy(tmp_path / "twin")
    twin.run("erase", user=[USER])
    expected = rows(twin), {k: t.to_pylist() for k, t in published(twin).items()}
    steps = ("remove", "move_audits", "move_manifests", "move_ledger", "forget")
    number = 0
    is_stopped = True
    while is_stopped:
        victim, done = world.copy(tmp_path / f"victim-{number}"), itertools.count()
        with monkeypatch.context() as patched:
            for name in steps:
                step = getattr(erasing, name)

                def stopping(*arguments, step=step, done=done, number=number):
                    found = step(*arguments)
                    if next(done) == number:
                        raise KeyboardInterrupt
                    return found

                patched.setattr(erasing, name, stopping)
            try:
                victim.run("erase", user=[USER])
                is_stopped = False
            except KeyboardInterrupt:
                number += 1
        victim.run("erase", user=[USER])
        assert naming(victim.home, USER) == [], number
        assert (rows(victim), {k: t.to_pylist() for k, t in published(victim).items()}) == expected
        ledger_of = [(e.table, e.business_date, e.rows) for e in all_entries(victim)]
        assert ledger_of == [(e.table, e.business_date, e.rows) for e in all_entries(twin)]
    assert number > 10


def all_entries(world: World) -> list[ledger.Entry]:
    return [e for place in about_users() for e in ledger.entries(world.settings, GYM, place.table)]


def test_killed_after_its_first_commit_and_run_again_it_leaves_the_same(world, tmp_path):
    twin = world.copy(tmp_path / "twin")
    twin.run("erase", user=[USER])
    expected = rows(twin), {k: t.to_pylist() for k, t in published(twin).items()}
    before = _versions(world)
    process = subprocess.Popen(
        [sys.executable, "-m", "lumos", "erase", "--user", USER],
        cwd=REPOSITORY, env=world.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while _versions(world) == before and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert naming(world.home, USER)
    world.run("erase", user=[USER])
    assert naming(world.home, USER) == []
    assert (rows(world), {k: t.to_pylist() for k, t in published(world).items()}) == expected


def _versions(world: World) -> dict[str, int | None]:
    opened = {p.table: open_table(p.uri(world.settings, GYM)) for p in places(GYM)}
    return {name: table.version() if table else None for name, table in opened.items()}
