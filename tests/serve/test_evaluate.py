"""Evaluation: the same questions to everyone, on days that nobody learned from."""

import datetime as dt

import numpy as np
import pytest

from lumos.dates import day_number
from lumos.delta import read
from lumos.ledger import require
from lumos.overrides import override
from lumos.recipes import load
from lumos.serve.accuracy import auc
from lumos.tables import table_uri
from lumos.train import tracking
from lumos.verbs import BadInput
from tests.conftest import RECIPE, World
from tests.serve.lake import contents, members
from tests.serve.models import crown, register

RECIPE_OBJECT = load(RECIPE)


def evaluations(world: World) -> list[dict[str, object]]:
    """Rows of `evaluations`."""
    rows = read(table_uri(world.settings, RECIPE_OBJECT, "evaluations"))
    assert rows is not None
    return rows.to_pylist()


def test_it_holds_forecast_and_outcome_of_every_user_registered_by_each_origin(
    crowned: World,
) -> None:
    rows = evaluations(crowned)

    origins = [crowned.date - dt.timedelta(days=days) for days in (17, 10)]
    expected = {
        (member.user_id, origin)
        for member in members()
        for origin in origins
        if member.registered <= day_number(origin)
    }
    assert {(row["user_id"], row["origin"]) for row in rows} == expected
    assert len(rows) == len(expected)
    by_id = {member.user_id: member for member in members()}
    for row in rows:
        first = day_number(row["origin"]) + 1  # type: ignore[arg-type]
        days = by_id[str(row["user_id"])].days
        ahead = [days[day] for day in range(first, first + 10) if day in days]
        assert row["visit_10d_outcome"] == float(bool(ahead))
        assert row["minutes_10d_outcome"] == pytest.approx(sum(day[2] for day in ahead), rel=1e-5)
    assert 0.03 < np.mean([row["is_held_out"] for row in rows]) < 0.2


def test_what_the_report_says_is_what_the_rows_say(crowned: World) -> None:
    rows = evaluations(crowned)
    entry = require(crowned.settings, RECIPE_OBJECT, "evaluations", crowned.date, remedy="")

    outcome, forecast = (
        np.array([row[f"visit_3d_{what}"] for row in rows]) for what in ("outcome", "forecast")
    )

    assert entry.report.metrics["challenger.visit_3d.auc"] == pytest.approx(auc(outcome, forecast))
    assert entry.report.metrics["challenger.num_rows"] == len(rows)


def test_everyone_is_measured_for_all_users_and_for_those_held_out(crowned: World) -> None:
    rows = read(table_uri(crowned.settings, RECIPE_OBJECT, "metrics"))
    assert rows is not None
    segments = {row["segment"] for row in rows.to_pylist() if row["job"] == "evaluate"}
    contestants = {"challenger", "lightgbm", "recency"}
    groups = {segment for segment in segments if "=" in segment}  # whose calibration is off
    assert segments - groups == contestants | {f"{name}|held_out" for name in contestants}

    version = tracking.client(crowned.settings).get_model_version("lumos_gym", "1")
    logged = tracking.client(crowned.settings).get_run(version.run_id).data.metrics
    assert {f"evaluate/{name}/primary_loss" for name in contestants} <= set(logged)
    assert "evaluate/challenger/held_out/visit_10d.log_loss" in logged


def test_evaluating_again_writes_nothing_even_after_the_promotion(crowned: World) -> None:
    before = contents(crowned, "evaluations"), contents(crowned, "metrics")

    assert crowned.run("evaluate").already_done
    crowned.run("evaluate", force=True)

    assert before == (contents(crowned, "evaluations"), contents(crowned, "metrics"))


def test_a_second_version_is_compared_with_the_champion_and_keeps_its_rows(
    crowned: World,
) -> None:
    before = contents(crowned, "evaluations")
    second = register(crowned, seed=2)

    report = crowned.run("evaluate")

    assert report.details["challenger"] == second
    assert report.details["champion"] == "1"
    assert report.metrics["champion.primary_loss"] is not None
    assert report.metrics["champion.visit_10d.auc"] != report.metrics["challenger.visit_10d.auc"]
    assert set(before) < set(contents(crowned, "evaluations"))

    crown(crowned, second)
    assert crowned.run("evaluate").already_done


def test_a_model_that_learned_from_these_labels_is_refused(registered: World) -> None:
    taught = register(registered, seed=2, last_label="2024-04-30")

    with pytest.raises(BadInput, match=f"version {taught} learned from labels up to 2024-04-30"):
        registered.run("evaluate")


def test_a_champion_that_learned_from_these_labels_is_not_compared(registered: World) -> None:
    crown(registered, register(registered, seed=2, last_label="2024-04-30"))

    report = registered.run("evaluate", model="1")

    assert "learned from labels" in report.details["champion_not_compared"]["unfair"]
    assert "champion.primary_loss" not in report.metrics


def test_a_champion_for_other_columns_is_obsolete(registered: World) -> None:
    other = override(RECIPE_OBJECT, {"calendar": ("monday",)})
    crown(registered, register(registered, seed=2, recipe=other))

    report = registered.run("evaluate", model="1")

    assert "other calendar" in report.details["champion_not_compared"]["obsolete"]


def test_without_a_challenger_it_says_what_to_do(registered: World) -> None:
    name = tracking.model_name(RECIPE_OBJECT)
    tracking.client(registered.settings).delete_registered_model_alias(name, "challenger")

    with pytest.raises(BadInput, match=r"no challenger yet.*lumos train"):
        registered.run("evaluate")


def test_a_date_without_sequences_says_what_to_do(registered: World) -> None:
    with pytest.raises(BadInput, match=r"not ready for 2024-05-01.*lumos sequences"):
        registered.run("evaluate", date=dt.date(2024, 5, 1))
