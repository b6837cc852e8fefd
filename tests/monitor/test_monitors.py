"""The monitors: quiet on ordinary days, loud on broken ones, and never sure without a past."""

import datetime as dt

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumos.delta import predicate, read, replace
from lumos.ledger import entries
from lumos.monitor.history import FEWEST_DAYS, Limits, usual
from lumos.monitor.names import MONITORS, OF
from lumos.recipes import load
from lumos.tables import table_uri, tables
from lumos.verbs import GateRefused
from tests.conftest import World

FIRST = dt.date(2026, 1, 5)
LIMITS = Limits(warning=0.1, critical=0.3)
VALUES = st.lists(st.floats(-10, 10), min_size=FEWEST_DAYS, max_size=60)


def past(values: list[float]) -> dict[dt.date, float]:
    return {FIRST + dt.timedelta(days=n): value for n, value in enumerate(values)}


@given(VALUES, st.floats(0, 50), st.floats(0, 50))
def test_a_value_further_out_is_never_judged_milder(values, near, further):
    known = usual(past(values), FIRST + dt.timedelta(days=len(values)))
    assert known is not None
    order = ("ok", "warning", "critical")
    verdicts = [
        order.index(known.verdict(known.centre + away, LIMITS)) for away in (near, near + further)
    ]
    assert verdicts == sorted(verdicts)


@given(VALUES)
def test_days_to_come_are_not_looked_at(values):
    date = FIRST + dt.timedelta(days=len(values))
    later = {date + dt.timedelta(days=n): 1e6 for n in range(30)}
    assert usual({**past(values), **later}, date) == usual(past(values), date)


@given(st.lists(st.floats(-10, 10), max_size=FEWEST_DAYS - 1))
def test_too_short_a_past_makes_nothing_usual(values):
    assert usual(past(values), FIRST + dt.timedelta(days=len(values))) is None


def rows(world: World, job: str = "monitor") -> list[dict]:
    found = read(
        table_uri(world.settings, load(world.recipe_name), "metrics"), where=predicate(job=job)
    )
    assert found is not None
    return sorted(found.to_pylist(), key=lambda row: (row["name"], row["segment"]))


def spoil(world: World, column: str, factor: float) -> None:
    """Multiply a column of the business date, as a platform that changed its unit would."""
    recipe = load(world.recipe_name)
    uri = table_uri(world.settings, recipe, "activity")
    mine = read(uri, where=predicate(day=world.date))
    assert mine is not None
    index = mine.column_names.index(column)
    field = mine.schema.field(column)
    changed = pc.multiply(mine[column], pa.scalar(factor, mine[column].type))
    version = replace(
        uri,
        mine.set_column(index, field, changed),
        where=predicate(day=world.date),
        partition=tables(recipe)["activity"].partition,
    )
    (entry,) = entries(world.settings, recipe, "activity")
    row = read(table_uri(world.settings, recipe, "ledger"), where=predicate(table="activity"))
    assert row is not None
    place = row.column_names.index("version")
    row = row.set_column(place, row.schema.field("version"), pa.array([version], pa.int64()))
    replace(
        table_uri(world.settings, recipe, "ledger"),
        row,
        where=predicate(table="activity", business_date=entry.business_date),
    )


def test_an_ordinary_day_has_nothing_critical_and_every_figure_is_a_row(gym):
    report = gym.run("monitor", of="tables")
    found = rows(gym)
    assert {row["name"] for row in found} <= set(OF["tables"])
    assert report.metrics["num_critical"] == 0
    assert report.metrics["num_ok"] > 0
    assert all(row["message"] for row in found if row["verdict"] != "ok")
    again = gym.run("monitor", of="tables")
    assert again.already_done
    assert rows(gym) == found
    gym.run("monitor", of="tables", force=True)
    assert rows(gym) == found


def test_a_column_in_another_unit_is_found_and_named(gym):
    column = load(gym.recipe_name).continuous[0]
    spoil(gym, column, 60.0)
    with pytest.raises(GateRefused, match=column):
        gym.run("monitor", of="tables")
    red = [row for row in rows(gym) if row["verdict"] == "critical"]
    assert {row["segment"] for row in red} == {f"activity.{column}"}


def test_forecasts_that_nobody_made_are_unknown_and_not_well(gym):
    report = gym.run("monitor", of="forecasts")
    assert report.metrics["num_ok"] == 0
    assert report.metrics["num_unknown"] > 0
    assert {row["verdict"] for row in rows(gym)} <= {"unknown", "info"}
    assert {row["name"] for row in rows(gym)} <= set(MONITORS)


def test_the_page_is_there_and_shows_html_as_text(gym):
    report = gym.run("monitor", of="tables")
    page = gym.home / "reports" / report.recipe / "monitor" / gym.date.isoformat() / "index.html"
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "/lumos/runbook#monitor-" in text or report.metrics["num_warnings"] == 0
