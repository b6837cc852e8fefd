"""A small world without Spark: the gym's contract tables, made up directly."""

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lumos import ledger
from lumos.accio.contract import event_calendar, open_sequences
from lumos.accio.events import EventCalendar
from lumos.accio.table import SequenceTable
from lumos.accio.users import Users
from lumos.config import Recipe, Task
from lumos.dates import day_number
from lumos.delta import replace
from lumos.overrides import override
from lumos.recipes import load
from lumos.settings import Settings
from lumos.tables import table_uri, tables
from lumos.tasks import Days, task
from lumos.verbs import Request, TableWritten

FIRST_DAY, AS_OF = dt.date(2024, 1, 1), dt.date(2024, 5, 10)
RECIPE = "gym_world.recipe:recipe"


def recipe(name: str = RECIPE) -> Recipe:
    return load(name)


@task(answer="binary", window_days=7, has_head=True)
def busy_week(days: Days) -> np.ndarray:
    """More than two hours in a week: no sum of products, so only a head can answer it."""
    return np.asarray(days.sum("minutes") > 120, np.float64)


def recipe_with_heads() -> Recipe:
    """The gym with a task of every kind that has a head, and one that has none."""
    tasks = (
        Task(name="visit_10d", kind="any", column="visited", window_days=10, has_head=True),
        Task(name="visit_3d", kind="any", column="visited", window_days=3, has_head=True),
        Task(name="class_7d", kind="any", column="took_class", window_days=7, has_head=True),
        Task(name="class_3d", kind="any", column="took_class", window_days=3),
        Task(name="spend_7d", kind="sum", column="spend", window_days=7, has_head=True),
        Task(
            name="minutes_10d",
            kind="sum",
            column="minutes",
            window_days=10,
            metric="wape",
            has_head=True,
        ),
        busy_week,
    )
    return override(recipe(), {"tasks": [each.model_dump() for each in tasks]})


def settings(home: Path) -> Settings:
    return Settings.from_environment({"LUMOS_HOME": str(home)})


def users(number: int = 24, seed: int = 0) -> Users:
    """Members with a habit of their own; some joined later, some plans and ages are missing."""
    random = np.random.default_rng(seed)
    first, last = day_number(FIRST_DAY), day_number(AS_OF)
    registered = first + random.integers(0, 60, number)
    registered[0] = first
    rate = random.uniform(0.05, 0.7, number)
    days, values = [], []
    for user in range(number):
        span = np.arange(registered[user], last + 1)
        active = span[random.random(len(span)) < rate[user]]
        days.append(active.astype(np.int32))
        minutes = random.gamma(4, 15, len(active))
        spend = np.where(random.random(len(active)) < 0.2, random.gamma(2, 300, len(active)), 0)
        took = random.random(len(active)) < 0.3
        values.append(np.stack([np.ones(len(active)), took, minutes, spend], axis=1))
    plans = [["basic", "gold", "student", None][n] for n in random.integers(0, 4, number)]
    ages = [None if random.random() < 0.2 else float(random.integers(18, 70)) for _ in plans]
    return Users(
        user_id=np.array([f"member/{n:03d}é" for n in range(number)], object),
        registered=registered.astype(np.int32),
        static=pa.table(
            {"plan": pa.array(plans, pa.string()), "age": pa.array(ages, pa.float64())}
        ),
        columns=tuple(np.concatenate(values).astype(np.float32).T),
        days=np.concatenate(days),
        splits=np.concatenate([[0], np.cumsum([len(part) for part in days])]).astype(np.int64),
    )


def event_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes announced 20 days ahead, and corrected 2 days ahead: day, known_on, values."""
    random = np.random.default_rng(1)
    days = np.repeat(np.arange(day_number(FIRST_DAY), day_number(AS_OF) + 30), 2)
    known_on = days - np.tile([20, 2], len(days) // 2)
    values = np.stack([random.integers(1, 9, len(days)), random.random(len(days)) < 0.1], axis=1)
    return days, known_on, values.astype(np.float32)


def calendar(of: Recipe | None = None) -> EventCalendar:
    of = of or recipe()
    days, known_on, values = event_rows()
    return event_calendar(of, days, known_on, values[:, : len(of.events)])


def write_lake(
    home: Path, everyone: Users, of: Recipe | None = None, row_group_size: int | None = None
) -> Settings:
    """Write the tables that training reads as real Delta, and enter them in the ledger.

    With ``row_group_size`` the files of `sequences` are written again, that many users at a time.
    """
    of, at = of or recipe(), settings(home)
    declared = tables(of)
    sequences = sequence_rows(everyone, of)
    written = {"sequences": write(at, of, "sequences", sequences, partition=("bucket",))}
    users_schema = declared["users"].arrow_schema(of)
    rows = sequences.append_column("valid_from", sequences["registered_on"])
    written["users"] = write(at, of, "users", rows.select(users_schema.names))
    written["activity"] = written["users"]
    if row_group_size:
        for file in Path(table_uri(at, of, "sequences")).rglob("*.parquet"):
            pq.write_table(pq.ParquetFile(file).read(), file, row_group_size=row_group_size)
    if of.events:
        days, known_on, values = event_rows()
        context = {"day": _dates(days), "known_on": _dates(known_on)}
        context |= {
            c.name: pa.array(v, pa.float64()) for c, v in zip(of.events, values.T, strict=True)
        }
        written["event_context"] = write(at, of, "event_context", pa.table(context))
    for name, version in written.items():
        request = Request(verb=declared[name].owner, recipe=of, date=AS_OF, settings=at)
        item = TableWritten(table=name, version=version, rows=len(everyone))
        ledger.record(request, request.report(tables=(item,)), inputs={}, first_day=FIRST_DAY)
    return at


def version(at: Settings, name: str, of: Recipe | None = None) -> int:
    """The version of a table that the ledger pins."""
    entry = ledger.find(at, of or recipe(), name, AS_OF)
    assert entry is not None
    return entry.version


def table(at: Settings, of: Recipe | None = None) -> SequenceTable:
    """`sequences` at the version that the ledger pins."""
    return open_sequences(at, of or recipe(), version(at, "sequences", of))


def write(
    at: Settings, of: Recipe, name: str, rows: pa.Table, partition: tuple[str, ...] = ()
) -> int:
    schema = tables(of)[name].arrow_schema(of)
    fitted = pa.table([rows[field.name] for field in schema], schema=schema)
    return replace(table_uri(at, of, name), fitted, where=None, partition=partition)


def sequence_rows(everyone: Users, of: Recipe) -> pa.Table:
    """The users as rows of `sequences`, half in each of two buckets."""
    cells = {"day": pa.array(everyone.days.astype(np.int16), pa.int16())}
    cells |= {
        column.name: pa.array(values, pa.float32())
        for column, values in zip(of.activity, everyone.columns, strict=True)
    }
    schema = tables(of)["sequences"].arrow_schema(of)
    day_type = schema.field("days").type
    flat = pa.StructArray.from_arrays(list(cells.values()), fields=list(day_type.value_type))
    columns = {
        "user_id": pa.array(everyone.user_id, pa.string()),
        "registered_on": _dates(everyone.registered),
        **{name: everyone.static[name] for name in everyone.static.column_names},
        "days": pa.ListArray.from_arrays(everyone.splits.astype(np.int32), flat, type=day_type),
        "bucket": pa.array(np.arange(len(everyone)) % 2, pa.int32()),
    }
    return pa.table([columns[field.name] for field in schema], schema=schema)


def _dates(days: np.ndarray) -> pa.Array:
    return pa.array(np.asarray(days, np.int32), pa.int32()).cast(pa.date32())
