"""The half `forecasts` through real Delta tables."""

import datetime as dt
from contextlib import nullcontext

import numpy as np
import pytest

from lumos.verbs import GateRefused
from tests.monitor.conftest import PUBLISHED
from tests.monitor.lake import DATE, GYM, metrics, publish_days

DAY = dt.timedelta(days=1)
TASKS = [task.name for task in GYM.tasks]


def verdicts(world, name):
    found = metrics(world)
    return {segment: row["verdict"] for (n, segment), row in found.items() if n == name}


def test_publications_as_usual_are_quiet_and_judged_by_task_and_group(published):
    published.run("monitor", of="forecasts")
    found = metrics(published)
    assert {row["verdict"] for row in found.values()} <= {"ok", "unknown"}
    assert found["publication_freshness", "scores"]["verdict"] == "ok"
    for task in TASKS:
        assert found["prediction_psi", task]["verdict"] == "ok"
        assert found["matured_loss_vs_baseline", task]["verdict"] == "ok"
    assert found["matured_auc", "visit_10d"]["verdict"] == "ok"
    assert 0.7 < found["matured_auc", "visit_3d"]["value"] < 1
    assert found["matured_wape", "minutes_10d"]["verdict"] == "ok"
    # Groups of a few dozen members say nothing, and that is said.
    assert any("plan=gold" in row["message"] for row in found.values())


def test_scores_that_move_are_drift_before_any_day_has_passed(published):
    publish_days(published, PUBLISHED, change=lambda day, p: p / 4 if day == DATE else p)
    with pytest.raises(GateRefused, match="visit_3d: prediction_"):
        published.run("monitor", of="forecasts")
    assert verdicts(published, "prediction_psi") == {
        "visit_10d": "critical",
        "visit_3d": "critical",
        "minutes_10d": "ok",
    }
    assert verdicts(published, "matured_auc")["visit_3d"] == "ok"


def test_forecasts_that_came_true_less_than_before_are_found_on_matured_days(published):
    judged = DATE - 3 * DAY
    random = np.random.default_rng(3)
    publish_days(
        published, PUBLISHED, change=lambda day, p: random.permutation(p) if day == judged else p
    )
    with pytest.raises(GateRefused, match="visit_3d: matured_auc is "):
        published.run("monitor", of="forecasts")
    assert verdicts(published, "matured_auc")["visit_3d"] == "critical"
    assert verdicts(published, "matured_auc")["visit_10d"] == "ok"


def test_a_champion_worse_than_the_plain_baseline_for_a_week_is_critical(published):
    random = np.random.default_rng(3)
    publish_days(published, PUBLISHED, change=lambda _, p: random.permutation(p))
    with pytest.raises(GateRefused, match="of the plain baseline's"):
        published.run("monitor", of="forecasts")
    assert verdicts(published, "matured_loss_vs_baseline")["visit_3d"] == "critical"


@pytest.mark.parametrize(("behind", "verdict"), [(1, "warning"), (2, "critical"), (9, "critical")])
def test_a_date_that_was_not_published_is_said_to_be_stale(published, behind, verdict):
    publish_days(published, PUBLISHED[:-behind])
    is_red = pytest.raises(GateRefused, match="newest live publication")
    with is_red if verdict == "critical" else nullcontext():
        published.run("monitor", of="forecasts")
    found = metrics(published)
    assert found["publication_freshness", "scores"]["verdict"] == verdict
    assert found["prediction_ks", "visit_3d"]["verdict"] == "unknown"


def test_an_old_date_of_a_backfill_is_not_blamed_for_not_being_published(published):
    publish_days(published, [*PUBLISHED[:-9], DATE + DAY])
    published.run("monitor", of="forecasts")
    row = metrics(published)["publication_freshness", "scores"]
    assert row["verdict"] == "info"
    assert "newer date" in row["message"]


def test_a_lake_without_publications_is_unknown_and_never_ok(gym):
    report = gym.run("monitor", of="forecasts")
    assert {row["verdict"] for row in metrics(gym).values()} == {"unknown"}
    assert report.metrics["num_ok"] == 0
    assert report.metrics["num_unknown"] == len(metrics(gym))


def test_the_halves_do_not_wipe_each_other(gym):
    gym.run("monitor", of="tables")
    tables_alone = metrics(gym)
    gym.run("monitor", of="forecasts")
    assert metrics(gym).items() > tables_alone.items()
    both = metrics(gym)
    report = gym.run("monitor", force=True)
    assert metrics(gym) == both
    assert sum(report.metrics.values()) == len(both)


def test_a_rerun_of_forecasts_gives_the_same_rows(published):
    published.run("monitor", of="forecasts")
    before = metrics(published)
    assert published.run("monitor", of="forecasts").already_done
    published.run("monitor", of="forecasts", force=True)
    assert metrics(published) == before
