"""What the gate measures and refuses, on numbers made by hand."""

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lumos.config import Recipe
from lumos.serve import spread
from lumos.serve.calibrate import fit, read_evaluated
from lumos.serve.gate import Measures, recent, verdicts
from lumos.serve.manifest import Manifest
from lumos.serve.rolls import Compared, Roll, compare
from lumos.serve.stage import Part, stage, whole_users
from lumos.tables import tables
from tests.conftest import World
from tests.serve.publications import GYM, rows_of, with_column

DATE = dt.date(2024, 5, 10)
EVERYONE = Compared(num_expected=100, num_met=100, num_strangers=0, num_repeated=0)


def scores(visit: float = 0.3, minutes: float = 20.0, recipe: Recipe = GYM, **extra) -> pa.Table:
    """A hundred users with scores around these."""
    around = np.linspace(0.9, 1.1, 100)
    schema = tables(recipe)["scores"].arrow_schema(recipe)
    columns = {
        "as_of": [DATE] * 100,
        "user_id": [f"u{n}" for n in range(100)],
        "visit_10d": around * visit,
        "visit_3d": around * visit / 2,
        "minutes_10d": around * minutes,
        "minutes_10d_low": around * minutes / 2,
        "minutes_10d_high": around * minutes * 2,
        "model_version": ["1"] * 100,
        "calibrator_version": ["c"] * 100,
    }
    rows = pa.table({name: columns[name] for name in schema.names}, schema=schema)
    for name, values in extra.items():
        rows = rows.append_column(name, pa.array(values, pa.float64()))
    return rows


def measured(rows: pa.Table, *, model: str = "1", num_nulls: int = 0) -> Measures:
    measures = Measures()
    measures.add(GYM, Part(rows, frozenset({model}), num_nulls))
    return measures


def publication(day: int, rows: pa.Table, *, model: str = "1", num_rows: int = 100) -> Manifest:
    return Manifest(
        as_of=DATE - dt.timedelta(days=day),
        scores_version=1,
        state="live",
        num_rows=num_rows,
        columns="",
        checksum="",
        model_version=model,
        calibrator_version="c",
        inputs="{}",
        spread=measured(rows).spread_json(),
        created=dt.datetime(2024, 5, 9, tzinfo=dt.UTC),
        valid_until=DATE,
    )


def judged(measures: Measures, usual: list[Manifest], users: Compared = EVERYONE) -> dict:
    errors = {task.name: 0.0 for task in GYM.tasks}
    found = verdicts(GYM, measures, users, errors, "1", recent(usual, DATE))
    return {metric.name: metric for metric in found}


def wrong(found: dict) -> set[str]:
    return {name for name, metric in found.items() if metric.verdict == "critical"}


def test_an_ordinary_day_passes_and_so_does_the_first_one_of_all() -> None:
    assert wrong(judged(measured(scores()), [])) == set()
    assert wrong(judged(measured(scores()), [publication(1, scores())])) == set()


def test_scores_unlike_all_of_the_last_publications_are_refused() -> None:
    found = judged(measured(scores(minutes=60)), [publication(1, scores())])

    assert wrong(found) == {"minutes_10d.drift"}
    assert found["minutes_10d.drift"].value == pytest.approx(1)


def test_a_day_like_the_same_weekday_last_week_is_no_drift() -> None:
    usual = [publication(7, scores(minutes=60)), publication(1, scores())]

    assert wrong(judged(measured(scores(minutes=60)), usual)) == set()


def test_a_new_model_that_spreads_its_scores_in_another_way_is_a_warning() -> None:
    found = judged(measured(scores(minutes=60)), [publication(1, scores(), model="0")])

    assert wrong(found) == set()
    assert found["minutes_10d.drift"].verdict == "warning"
    assert "the model is another one" in found["minutes_10d.drift"].message


def test_once_the_new_model_has_published_only_its_own_days_count() -> None:
    usual = [publication(2, scores(minutes=60), model="0"), publication(1, scores())]

    assert wrong(judged(measured(scores(minutes=60)), usual)) == {"minutes_10d.drift"}


@pytest.mark.parametrize(("usual", "refused"), [(70, True), (80, False), (135, False), (250, True)])
def test_many_more_or_fewer_users_than_usual_are_refused(usual: int, refused: bool) -> None:
    before = [publication(day, scores(), num_rows=usual) for day in (3, 2, 1)]

    assert wrong(judged(measured(scores()), before)) == ({"volume_change"} if refused else set())


def test_old_later_and_taken_back_publications_are_not_what_is_usual() -> None:
    taken = Manifest.model_validate({**publication(1, scores()).model_dump(), "state": "retracted"})
    others = [publication(29, scores()), taken, publication(0, scores()), publication(-1, scores())]

    assert recent(sorted(others, key=lambda m: m.as_of), DATE) == []


@pytest.mark.parametrize(
    ("users", "name"),
    [
        (Compared(100, 98, 0, 0), "coverage"),
        (Compared(0, 0, 0, 0), "coverage"),
        (Compared(100, 100, 1, 0), "strangers"),
        (Compared(100, 100, 0, 1), "repeated_users"),
    ],
)
def test_users_that_lack_or_should_not_be_there_are_refused(users: Compared, name: str) -> None:
    assert wrong(judged(measured(scores()), [], users)) == {name}


def test_a_null_in_the_forecasts_is_refused() -> None:
    assert wrong(judged(measured(scores(), num_nulls=1), [])) == {"nulls"}


@pytest.mark.parametrize(("low", "high"), [(30.0, 40.0), (1.0, 10.0), (np.nan, 40.0)])
def test_an_interval_that_does_not_hold_its_score_is_refused(low: float, high: float) -> None:
    rows = scores()
    rows = with_column(rows, "minutes_10d_low", [low] + [1.0] * 99)
    rows = with_column(rows, "minutes_10d_high", [high] + [90.0] * 99)

    found = judged(measured(rows), [])
    assert wrong(found) == {"minutes_10d.out_of_range"}
    assert found["minutes_10d.out_of_range"].value == 1


def test_rolls_tell_who_is_missing_strange_or_there_twice(tmp_path: Path) -> None:
    expected, found = Roll(tmp_path / "expected"), Roll(tmp_path / "found")
    for start in (0, 500):
        expected.add(pa.array([f"user {n}" for n in range(start, start + 500)]))
    found.add(pa.array([f"user {n}" for n in range(10, 1000)]))
    found.add(pa.array(["user 20", "user 20", "nobody"]))

    assert compare(expected, found) == Compared(1000, 990, 1, 2)


def test_spreads_survive_their_json_and_tell_their_distance() -> None:
    for task, low, high in ((GYM.tasks[0], 0.1, 0.5), (GYM.tasks[-1], -5.0, 1e9)):
        ours = spread.count(task, np.array([low] * 3 + [high] + [np.nan]))
        theirs = spread.count(task, np.array([low, high, high, high]))
        again = spread.from_json(task, json.loads(json.dumps(spread.to_json(ours))))
        assert again.tolist() == ours.tolist()
        assert ours.sum() == 4
        assert spread.distance(ours, theirs) == pytest.approx(0.5)
        assert spread.distance(ours, ours) == 0


def test_a_step_that_all_users_take_together_is_no_distance_but_a_leap_is() -> None:
    amount = GYM.tasks[-1]
    today, doubled, fourfold = (
        spread.count(amount, np.full(9, value)) for value in (10.1, 20.1, 40.1)
    )
    assert spread.distance(today, doubled) == spread.distance(doubled, today) == 0
    assert spread.distance(today, fourfold) == spread.distance(fourfold, today) == 1


def test_users_are_whole_however_their_rows_are_cut(scored: World) -> None:
    days = rows_of(scored, "forecasts")
    users = [set(part["user_id"].to_pylist()) for part in whole_users(pieces(days, 7))]

    assert sum(map(len, users)) == len(set(days["user_id"].to_pylist())) > 200


def pieces(rows: pa.Table, size: int) -> list[pa.Table]:
    return [rows.slice(start, size) for start in range(0, rows.num_rows, size)]


def test_staging_leaves_out_who_has_no_whole_horizon_and_counts_what_is_null(scored: World) -> None:
    calibration = fit(GYM, read_evaluated(scored.settings, GYM, "1", scored.date))
    horizon = GYM.horizon_days
    days = rows_of(scored, "forecasts").slice(0, 4 * horizon)
    kept = np.ones(4 * horizon, bool)
    kept[horizon] = False  # the second user lacks its first day
    days = days.filter(pa.array(kept))
    holes = [None, *days["given_minutes"].to_pylist()[1:]]
    days = with_column(days, "given_minutes", holes)

    part = stage(GYM, scored.date, days, calibration)

    names = list(dict.fromkeys(days["user_id"].to_pylist()))
    assert part.rows["user_id"].to_pylist() == [names[0], *names[2:]]
    assert part.num_nulls == 1
