"""What is past its days goes, and nothing that anybody may still ask for."""

import datetime as dt
import os
import shutil
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from benchmarks._ageing import Ageing
from benchmarks._thousand_world import FIRST_DAY, Platform
from lumos import ledger
from lumos.delta import data_files, open_table, predicate, read, replace
from lumos.ledger import Entry
from lumos.maintain import tending
from lumos.maintain.files import listing
from lumos.maintain.models import tend_models
from lumos.maintain.rules import rules
from lumos.maintain.run import maintain
from lumos.maintain.tending import Clock
from lumos.serve.manifest import LIVE, read_manifests, rows_of
from lumos.tables import tables
from lumos.train import tracking
from lumos.verbs import Report
from tests.conftest import World

DAY = dt.timedelta(days=1)
# A date is committed every six days of the simulated clock, so that few dates are enough.
STEP = 6
NUM_DATES = 8
LAST = FIRST_DAY + (NUM_DATES - 1) * DAY
TODAY = FIRST_DAY + (NUM_DATES - 1) * STEP * DAY


@pytest.fixture(scope="module")
def _lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ageing]:
    home = tmp_path_factory.mktemp("maintain") / "home"
    platform, ageing = Platform(home), Ageing(home)
    for number in range(NUM_DATES):
        platform.run(FIRST_DAY + number * DAY)
        ageing.written_on(FIRST_DAY + number * STEP * DAY)
    return home, ageing


@pytest.fixture
def platform(_lived: tuple[Path, Ageing], tmp_path: Path) -> Platform:
    """Eight dates, the first of which was committed 42 days before today."""
    home, ageing = _lived
    ageing.today_is(TODAY)
    shutil.copytree(home, tmp_path / "home")
    return Platform(tmp_path / "home")


def run(platform: Platform, date: dt.date = TODAY, *, dry_run: bool = False) -> Report:
    asked = platform.request("maintain", date)
    return maintain(asked.model_copy(update={"options": {"dry_run": dry_run}}))


def snapshot(platform: Platform) -> dict[str, int]:
    """Every file below the home and its size, but for MLflow's own."""
    home = platform.settings.home
    found = [path for path in home.rglob("*") if path.is_file() and "mlflow" not in path.name]
    return {str(path.relative_to(home)): path.stat().st_size for path in found}


def later(platform: Platform, days: int) -> None:
    """Let the newest business date be so many days after the last one."""
    asked = platform.request("validate", LAST + days * DAY)
    report = asked.report()
    ledger.record(asked, report, inputs={}, tables_written=(_written(),))


def _written():
    from lumos.verbs import TableWritten

    return TableWritten(table="quality", version=0, rows=1)


def contents(platform: Platform) -> dict[str, list[str]]:
    found = {}
    for name in tables(platform.recipe):
        rows = read(platform.uri(name))
        if rows is not None:
            found[name] = sorted(map(str, rows.to_pylist()))
    return found


def is_whole(platform: Platform, name: str, version: int) -> bool:
    """Whether a version can be opened, and all of its files are there."""
    table = DeltaTable(platform.uri(name), version=version)
    folder = Path(platform.uri(name))
    return all((folder / file.path).is_file() for file in data_files(table))


def pinned(platform: Platform) -> list[tuple[str, int]]:
    """What the ledger's entries of the last days name, and their inputs."""
    entries = ledger.all_entries(platform.settings, platform.recipe)
    found = set()
    for entry in entries:
        named = {entry.table: entry.version, **entry.inputs}
        if entry.business_date > LAST - 8 * DAY:
            found |= {(n, v) for n, v in named.items() if n in tables(platform.recipe)}
    return sorted(found)


def test_what_is_pinned_stays_whole_and_what_nobody_needs_goes(platform: Platform) -> None:
    before, pins = contents(platform), pinned(platform)
    oldest = {rule.table: _oldest(rule.uri) for rule in rules(platform.settings, platform.recipe)}

    report = run(platform)

    assert contents(platform) == before
    for name, version in pins:
        assert is_whole(platform, name, version), (name, version)
    for manifest in read_manifests(platform.settings, platform.recipe):
        assert rows_of(platform.settings, platform.recipe, manifest).num_rows
    assert report.details["tables"]["event_context"]["files_compacted"] == NUM_DATES - 1
    assert len(data_files(DeltaTable(platform.uri("event_context")))) == 1
    # All dates are within the days of the ledger, so that their versions stay; not so of these.
    assert _oldest(platform.uri("metrics")) == oldest["metrics"] == 0


def _oldest(uri: str) -> int | None:
    """The oldest version that can be opened."""
    table = open_table(uri)
    if table is None:
        return None
    for version in range(table.version() + 1):
        try:
            DeltaTable(uri, version=version)
        except Exception:
            continue
        return version
    return None


def test_versions_files_logs_and_rows_go_once_no_entry_of_the_ledger_names_them(
    platform: Platform,
) -> None:
    later(platform, 60)
    run(platform)  # entries and rows go; checkpoints are made
    ageing = Ageing(platform.settings.home)
    ageing.written_on(TODAY)
    after = TODAY + 60 * DAY
    ageing.today_is(after)
    before = snapshot(platform)

    report = run(platform, after)

    done = report.details["tables"]
    for name in ("sequences", "forecasts", "scores", "embeddings"):
        assert done[name]["files"], name
        assert done[name]["log_files"], name
        assert is_whole(platform, name, DeltaTable(platform.uri(name)).version())
    assert _num_rows(platform, "forecasts") == 0
    assert _num_rows(platform, "activity") > 0
    assert sum(snapshot(platform).values()) < 0.7 * sum(before.values())
    tables_left = {e.table for e in ledger.all_entries(platform.settings, platform.recipe)}
    assert tables_left == {"activity", "event_context", "users", "quality"}


def _num_rows(platform: Platform, name: str) -> int:
    return sum(file.num_rows for file in data_files(DeltaTable(platform.uri(name))))


def test_a_dry_run_says_what_would_go_and_changes_nothing(platform: Platform) -> None:
    later(platform, 60)
    before = snapshot(platform)
    said = run(platform, TODAY + 90 * DAY, dry_run=True)
    assert snapshot(platform) == before
    done = run(platform, TODAY + 90 * DAY)
    assert said.details["ledger_entries"] == done.details["ledger_entries"] > 0
    assert said.details["folders"] == done.details["folders"] != {}
    for name in ("forecasts", "scores"):
        assert said.details["tables"][name]["rows"] == done.details["tables"][name]["rows"]


def test_twice_is_once(platform: Platform) -> None:
    later(platform, 60)
    run(platform)
    # Checkpoints forget removed files by the real clock, which is far ahead of the simulated one.
    run(platform)
    before = snapshot(platform)
    assert run(platform).already_done
    assert snapshot(platform) == before


def test_a_live_manifest_that_is_valid_stays_whatever_its_age(platform: Platform) -> None:
    later(platform, 60)
    newest = max(m.as_of for m in read_manifests(platform.settings, platform.recipe))
    run(platform, newest)  # a clock that stands still: all are valid or young
    assert [m.as_of for m in read_manifests(platform.settings, platform.recipe)][-1] == newest
    run(platform)
    assert read_manifests(platform.settings, platform.recipe) == []


def test_no_version_that_a_training_may_read_goes_while_one_is_under_way(
    platform: Platform,
) -> None:
    later(platform, 60)
    after = TODAY + 60 * DAY
    state = platform.settings.home / "train" / "gym" / "f00d" / "state-00001-0000002" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    os.utime(state, (_moment(after - 3 * DAY),) * 2)
    versions = range(DeltaTable(platform.uri("sequences")).version() + 1)

    run(platform, after)
    assert state.is_file()
    assert all(is_whole(platform, "sequences", version) for version in versions)

    os.utime(state, (_moment(after - 30 * DAY),) * 2)  # nobody went on with it
    run(platform, after)
    assert not state.parent.parent.exists()
    assert not is_whole_or_gone(platform, versions[1])


def is_whole_or_gone(platform: Platform, version: int) -> bool:
    try:
        return is_whole(platform, "sequences", version)
    except Exception:
        return False


def _moment(day: dt.date) -> float:
    return dt.datetime.combine(day, dt.time(12), dt.UTC).timestamp()


def test_files_of_a_writer_at_work_stay_and_those_of_one_that_died_go(platform: Platform) -> None:
    folder = Path(platform.uri("scores"))
    part = folder / f"as_of={LAST}"
    drafts = [
        part / "part-00000-dead.zstd.parquet",
        part / ".part-00000-dead.zstd.parquet.crc",
        folder / "_delta_log" / "_commit_dead.json.tmp",
    ]
    at_work = part / "part-00001-alive.zstd.parquet"
    for path in (*drafts, at_work):
        path.write_text("half")
        age = 1 if path == at_work else 60
        os.utime(path, (_moment(TODAY - age * DAY),) * 2)
    (part / ".part-00000-dead.zstd.parquet.crc").touch()
    os.utime(part / ".part-00000-dead.zstd.parquet.crc", (_moment(TODAY - 60 * DAY),) * 2)
    run(platform)
    assert at_work.is_file()
    run(platform)  # the checksum of a file that is gone goes with the next run at the latest
    assert [path for path in drafts if path.exists()] == []


@pytest.mark.parametrize("step", ["_compact", "_checkpoint", "_vacuum", "_log", "_left_over"])
def test_killed_anywhere_it_is_simply_run_again(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    later(platform, 60)
    before = contents(platform)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tending, step, die)
        with pytest.raises(KeyboardInterrupt):
            run(platform)
    run(platform)
    run(platform)
    after = contents(platform)
    assert after["activity"] == before["activity"]
    assert run(platform).already_done
    for entry in ledger.all_entries(platform.settings, platform.recipe):
        if entry.table in ("activity", "event_context", "users"):
            assert is_whole(platform, entry.table, DeltaTable(platform.uri(entry.table)).version())


def test_writers_beside_it_lose_nothing(platform: Platform) -> None:
    later(platform, 60)
    stop, failed, written = threading.Event(), [], []
    schema = platform.schemas["event_context"]

    def write() -> None:
        number = 0
        while not stop.is_set():
            day = LAST + (100 + number) * DAY
            row = {f.name: 1.0 for f in schema} | {"day": day, "known_on": day}
            try:
                rows = pa.Table.from_pylist([row], schema=schema)
                replace(platform.uri("event_context"), rows, where=predicate(known_on=(day, day)))
                later(platform, 100 + number)
            except Exception as error:
                failed.append(error)
                return
            written.append(day)
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while len(written) < 2 and thread.is_alive():
            time.sleep(0.01)
        for _ in range(3):
            run(platform)
    finally:
        stop.set()
        thread.join()
    assert failed == []
    rows = read(platform.uri("event_context"))
    assert rows is not None
    assert set(written) <= set(rows["day"].to_pylist())
    entered: list[Entry] = ledger.entries(platform.settings, platform.recipe, "quality")
    assert set(written) <= {entry.business_date for entry in entered}


def test_pages_and_scratch_go_by_age_and_nothing_young_does(platform: Platform) -> None:
    home = platform.settings.home
    old, young = home / "reports/gym/experiments/a.html", home / "reports/gym/b.html"
    scratch = home / "scratch/f00d/x"
    for path, age in ((old, 31), (young, 29), (scratch, 15)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("page")
        os.utime(path, (_moment(TODAY - age * DAY),) * 2)
    run(platform)
    assert (old.exists(), young.exists(), scratch.parent.exists()) == (False, True, False)
    assert not old.parent.exists()


def test_a_model_without_an_alias_goes_and_the_champion_with_its_run_stays(tmp_path: Path) -> None:
    world = World(tmp_path)
    client, name = tracking.client(world.settings), "lumos_gym"
    experiment = tracking._experiment(client, world.settings, name)
    client.create_registered_model(name)
    folders, runs = {}, {}
    for version in ("1", "2", "3"):
        runs[version] = client.create_run(experiment).info.run_id
        folder = tmp_path / version
        folder.mkdir()
        (folder / "weights").write_text(version)
        client.log_artifacts(runs[version], str(folder))
        uri = client.get_run(runs[version]).info.artifact_uri
        folders[version] = Path(uri.removeprefix("file://"))
        client.create_model_version(name, uri, runs[version])
    client.set_registered_model_alias(name, "champion", "1")
    request = world.request("maintain")
    today = dt.datetime.now(dt.UTC).date()

    for age, gone in ((364, set()), (366, {"3"})):
        clock = Clock(today + age * DAY, today)
        found = tend_models(request, ["2"], clock)
        left = {str(v.version) for v in client.search_model_versions(f"name='{name}'")}
        assert left == {"1", "2", "3"} - gone
        assert {v for v, folder in folders.items() if not (folder / "weights").exists()} == gone
        assert found == ({"versions": 1, "runs": 1} if gone else {})
    assert {r.info.run_id for r in client.search_runs([experiment])} == {runs["1"], runs["2"]}
    assert tend_models(request, ["2"], Clock(today + 366 * DAY, today)) == {}


def test_everything_in_a_tables_folder_has_a_bound(platform: Platform) -> None:
    """What stays is no older than its days: so no table grows with the age of the platform."""
    later(platform, 200)
    ageing = Ageing(platform.settings.home)
    for number in range(1, 5):
        today = TODAY + number * 40 * DAY
        ageing.written_on(today - 40 * DAY)
        ageing.today_is(today)
        run(platform, today)
    for rule in rules(platform.settings, platform.recipe):
        table = open_table(rule.uri)
        if table is None or rule.table in ("ledger", "alerts"):
            continue
        live = {file.path for file in data_files(table)}
        names = [each.name for each in listing(rule.uri)]
        logs = [name for name in names if name.startswith("_delta_log/")]
        assert {name for name in names if name not in logs} == live, rule.table
        assert len(logs) <= 14, (rule.table, logs)
    assert all(m.state == LIVE for m in read_manifests(platform.settings, platform.recipe))
