"""Faults of what the system is given: rows that are missing, late, wrong, or not what they were."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks._gameday_play import Fault, Play
from benchmarks._gameday_system import System, Told
from benchmarks._gameday_world import NAME, TODAY, checkins, of_day, raw_table
from demo.client import Run
from lumos.delta import predicate, read, replace
from lumos.recipes import load
from lumos.settings import Settings
from lumos.tables import table_uri
from lumos.train import tracking
from tests.conftest import World


def _land_again(system: System, state: str, name: str) -> None:
    """The platform lands a raw table as it should have been, which is beyond the runbook."""
    source = raw_table(system.states.make(state), name)
    shutil.copy2(source, raw_table(system.states.world, name))


def empty_partition(system: System) -> Play:
    """Nothing of today has landed."""
    world = system.states.world
    system.breaks()
    checkins(world, lambda rows: rows.filter(pc.invert(of_day(rows, TODAY))))
    bought = raw_table(world, "purchases")
    lines = bought.read_text().splitlines(keepends=True)
    bought.write_text("".join(line for line in lines if f",{TODAY}," not in line))
    run = system.start("daily_aggregation")
    yield
    for name in ("checkins", "purchases"):
        _land_again(system, "yesterday", name)
    system.clear("aggregate", run, "aggregate", says="No row landed.*clear the task")


def schema_change(system: System) -> Play:
    """The platform lands minutes as text."""

    def as_text(rows: pa.Table) -> pa.Table:
        place = rows.column_names.index("minutes")
        return rows.set_column(place, "minutes", rows["minutes"].cast(pa.string()))

    system.breaks()
    checkins(system.states.world, as_text)
    run = system.start("daily_aggregation")
    yield
    _land_again(system, "yesterday", "checkins")
    system.clear("aggregate", run, "aggregate")


def bad_data(system: System) -> Play:
    """A third of today's check-ins do not say whose they are."""

    def nameless(rows: pa.Table) -> pa.Table:
        place = rows.column_names.index("member")
        third = pa.array([number % 3 == 0 for number in range(rows.num_rows)])
        lost = pc.and_(of_day(rows, TODAY), third)
        none = pa.scalar(None, pa.string())
        return rows.set_column(place, "member", pc.if_else(lost, none, rows["member"]))

    system.breaks()
    checkins(system.states.world, nameless)
    system.must_finish(system.start("daily_aggregation"))
    run = system.start("data_quality")
    yield
    system.finish(run)
    _land_again(system, "yesterday", "checkins")
    _make_again(system, "monitor-rejected-rows", run)


def _make_again(system: System, section: str, run: Run) -> None:
    """What both sections say once raw rows are as they should be."""
    system.type(section, "lumos aggregate --date $DATE --days 3 --force")
    system.type(section, "lumos sequences --date $DATE")
    system.type(section, "lumos validate --date $DATE")
    system.clear(section, run, "monitor")


def late_data(system: System) -> Play:
    """The check-ins of a day ten days ago land today."""
    system.breaks()
    system.must_finish(system.start("daily_aggregation"))
    run = system.start("data_quality")
    yield
    for verb in ("aggregate --date $DATE --days 14", "sequences --date $DATE"):
        system.type("late-data", f"lumos {verb}")
    system.type("late-data", "lumos validate --date $DATE")
    system.clear("late-data", run, "monitor")


def drifted_input(system: System) -> Play:
    """Minutes of today come as quarters of an hour."""

    def other_unit(rows: pa.Table) -> pa.Table:
        wrong = pc.if_else(of_day(rows, TODAY), pc.divide(rows["minutes"], 15.0), rows["minutes"])
        return rows.set_column(rows.column_names.index("minutes"), "minutes", wrong)

    system.breaks()
    checkins(system.states.world, other_unit)
    system.must_finish(system.start("daily_aggregation"))
    run = system.start("data_quality")
    yield
    system.finish(run)
    _land_again(system, "yesterday", "checkins")
    _make_again(system, "monitor-drift-psi", run)


def publish_refused(system: System) -> Play:
    """A third of today's forecasts is lost, and the ledger calls what is left ready."""
    world = system.states.world
    settings, declared = Settings.from_environment(system.airflow.environment), load(NAME)
    champion = tracking.version_of(settings, declared, "champion")
    # As the DAG would, which then finds it done.
    system.run("score", f"--date={TODAY}", f"--model={champion}")
    system.breaks()
    _lose_a_shard(world)
    run = system.start("batch_scoring")
    yield
    system.type("publish", "lumos score --date $DATE --force")
    system.clear("publish", run, "publish")


def _lose_a_shard(world: World) -> None:
    declared = load(world.recipe_name)
    uris = {name: table_uri(world.settings, declared, name) for name in ("forecasts", "ledger")}
    forecasts = read(uris["forecasts"])
    assert forecasts is not None
    where = predicate(as_of=TODAY, shard=0)
    version = replace(uris["forecasts"], forecasts.slice(0, 0), where=where)
    where = predicate(table="forecasts", business_date=TODAY)
    entered = read(uris["ledger"], where=where)
    assert entered is not None
    column = entered.column_names.index("version")
    newest = pa.array([version], entered.schema.field(column).type)
    replace(uris["ledger"], entered.set_column(column, "version", newest), where=where)


def model_corrupted(system: System) -> Play:
    """A byte of the champion's weights is another one."""
    path = _weights(system)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    system.breaks()
    path.write_bytes(whole)
    run = system.start("batch_scoring")
    yield
    section = "rollback-of-the-model"
    for verb in ("rollback", "resolve"):
        system.type(section, f"lumos {verb} --date $DATE")
    for verb in ("score", "publish"):
        system.type(section, f"lumos {verb} --date $DATE --force")
    system.clear(section, run, "resolve")


def _weights(system: System) -> Path:
    settings, declared = Settings.from_environment(system.airflow.environment), load(NAME)
    champion = tracking.version_of(settings, declared, "champion")
    assert champion is not None
    folder = tracking.checkpoint_of(settings, declared, champion)
    return max(folder.iterdir(), key=lambda path: path.stat().st_size)


FAULTS = (
    Fault(
        "late data",
        late_data,
        Told("monitor", r"late_rows \(raw\)"),
        begins="yesterday, without late rows",
        ends="aggregated",
        only=("activity", "event_context", "users", "sequences"),
    ),
    Fault(
        "bad data",
        bad_data,
        Told("monitor", r"rejected_rows \(raw\)"),
        ends="judged",
    ),
    Fault(
        "empty partition",
        empty_partition,
        Told("aggregate", f"no usable raw row of gym happened on {TODAY}"),
        ends="aggregated",
    ),
    Fault(
        "schema change",
        schema_change,
        Told("aggregate", "column minutes: expected double, found string"),
        ends="aggregated",
    ),
    Fault(
        "model file corrupted",
        model_corrupted,
        Told("score", "was cut short or changed since it was saved"),
        begins="judged",
        ends="rolled back",
    ),
    Fault(
        "publish refused",
        publish_refused,
        Told("publish", "active users have whole forecasts"),
        begins="judged",
        ends="published",
    ),
    Fault(
        "drifted input",
        drifted_input,
        Told("monitor", r"activity\.minutes: drift_psi is"),
        ends="judged",
    ),
)
