"""What an experiment's file must say before it may begin, and may not say afterwards."""

import datetime as dt
import re
from typing import Any

import pytest
from pydantic import ValidationError

from lumos.config import explain
from lumos.experiment.declaration import declared
from lumos.experiment.faults import Faults
from lumos.verbs import BadInput
from tests.experiment.conftest import START, Lake, experiment

DAY = dt.timedelta(days=1)
HALVES = [{"name": "control", "weight": 0.5}, {"name": "target", "weight": 0.5}]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"variants": [HALVES[0], HALVES[0]]}, r"variants \['control', 'control'\] overlap"),
        ({"variants": [HALVES[0], {"name": "target", "weight": 0.6}]}, "weights sum to 1.1"),
        ({"variants": HALVES[:1]}, "at least 2 items"),
        ({"unit": "session"}, "unit: Input should be 'user'"),
        ({"planned_days": 0}, "planned_days: Input should be greater than or equal to 1"),
        ({"looks": [7, 14]}, r"the last is planned_days=28"),
        ({"looks": [14, 7, 28]}, "ascending"),
        ({"adjust": "forecast"}, "adjust='forecast' needs `forecast`"),
        ({"minimum_effect": 0.0}, "minimum_effect: Input should be greater than 0"),
        ({"excluded": "../staff.txt"}, "is no plain file name"),
        ({"excluded": ""}, "is no plain file name"),
        (
            {"columns": {"day": "spend"}},
            r"^experiment towels: columns \['day'\] are `user_days`' own",
        ),
        ({"eligible": "/etc/passwd"}, "is no plain file name"),
        ({"guardrails": [{"metric": "dau", "direction": "down"}]}, "each may have one role only"),
        ({"layer": {"name": "x", "buckets": [5, 5]}}, "0 <= first < end <= 10000"),
        ({"ramp": [{"day": "2024-04-21", "share": 0.5}]}, "the ramp begins on 2024-04-20"),
        (
            {
                "ramp": [
                    {"day": "2024-04-20", "share": 0.5},
                    {"day": "2024-04-22", "share": 0.2},
                ]
            },
            "a smaller share would take users out",
        ),
        ({"stopped_on": "2024-04-01"}, "is before its start"),
        ({"hypothesys": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_the_reason(
    fields: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        experiment(**fields)
    assert re.search(complaint, explain(caught.value)), explain(caught.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"columns": {"cost": "coins"}}, r"columns \['coins'\] are not recipe gym's; it has"),
        ({"segments": ("age",)}, r"segments \['age'\] are not"),
        ({"forecast": "visit_99d"}, r"forecast \['visit_99d'\] are not"),
    ],
)
def test_what_the_platform_does_not_have_is_refused_with_the_choices(
    lake: Lake, changes: dict[str, Any], complaint: str
) -> None:
    lake.declare(experiment(**changes))
    with pytest.raises(BadInput, match=complaint):
        declared(lake.settings, lake.recipe)


def test_a_file_that_is_no_toml_or_has_another_name_is_refused(lake: Lake) -> None:
    path = lake.folder / "towels.toml"
    other = path.with_name("sheets.toml")
    other.write_text(path.read_text())
    with pytest.raises(BadInput, match="name='towels', expected 'sheets'"):
        declared(lake.settings, lake.recipe)
    other.write_text("name = ")
    with pytest.raises(BadInput, match=r"sheets\.toml is not TOML"):
        declared(lake.settings, lake.recipe)


def test_two_experiments_that_want_the_same_users_of_a_layer_are_refused(lake: Lake) -> None:
    def slice_of(name: str, first: int, end: int, **changes: Any) -> Any:
        return experiment(name=name, layer={"name": "offers", "buckets": (first, end)}, **changes)

    lake.declare(slice_of("one", 0, 6_000), slice_of("other", 5_000, 10_000))
    with pytest.raises(BadInput, match="one and other run at once and both want buckets 5000 to"):
        declared(lake.settings, lake.recipe)
    lake.declare(slice_of("one", 0, 5_000), slice_of("other", 5_000, 10_000))
    assert len(declared(lake.settings, lake.recipe)) == 2
    lake.declare(slice_of("one", 5_000, 10_000), slice_of("other", 0, 5_000))
    assert len(declared(lake.settings, lake.recipe)) == 2
    later = START + 28 * DAY
    lake.declare(slice_of("one", 0, 6_000), slice_of("other", 0, 6_000, start=later))
    assert len(declared(lake.settings, lake.recipe)) == 2


def test_of_two_that_want_the_same_users_the_one_that_began_first_goes_on(lake: Lake) -> None:
    layer = {"name": "offers", "buckets": (0, 6_000)}
    lake.declare(experiment(name="young", layer=layer, start=START + DAY), experiment(layer=layer))
    faults = Faults()
    assert [item.name for item in declared(lake.settings, lake.recipe, faults)] == ["towels"]
    assert len(faults.found) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"minimum_effect": 0.2},
        {"alpha": 0.1},
        {"planned_days": 35},
        {"primary": {"metric": "active_days", "direction": "up"}},
        {"variants": [{"name": "control", "weight": 0.2}, {"name": "target", "weight": 0.8}]},
        {"ramp": [{"day": "2024-04-20", "share": 0.5}]},
    ],
)
def test_an_experiment_that_runs_may_not_be_changed(lake: Lake, changes: dict[str, Any]) -> None:
    lake.run_with_users("assign", {"a": START}, START)
    lake.declare(experiment(**changes))
    for verb in ("assign", "measure"):
        with pytest.raises(BadInput, match="has run since 2024-04-20, and since then its file or"):
            lake.run(verb, START)
    lake.declare(experiment())
    assert lake.run("assign", START).already_done


def test_the_selects_of_an_experiment_that_runs_may_not_be_changed_either(lake: Lake) -> None:
    metrics = lake.folder.parent / "metrics"
    metrics.mkdir()
    select = "SELECT user_id, sum(cost) AS numerator FROM user_days GROUP BY user_id"
    (metrics / "spent.sql").write_text(select, encoding="utf-8")
    lake.declare(experiment(primary={"metric": "spent", "direction": "down"}))
    lake.run_with_users("assign", {"a": START}, START)
    (metrics / "spent.sql").write_text(select.replace("sum", "max"), encoding="utf-8")
    for verb in ("assign", "measure"):
        with pytest.raises(BadInput, match=r"has changed: metrics/spent\.sql"):
            lake.run(verb, START)
    (metrics / "spent.sql").write_text(select, encoding="utf-8")
    assert lake.run("assign", START).already_done


def test_a_metric_that_is_not_there_is_refused_before_anybody_is_exposed(lake: Lake) -> None:
    lake.declare(experiment(secondary=({"metric": "odd", "direction": "up"},)))
    with pytest.raises(BadInput, match=r"there is no metric 'odd'.*there are active_days, dau"):
        lake.run_with_users("assign", {"a": START}, START)
    assert not lake.rows("exposures")


def test_the_ramp_of_days_to_come_a_stop_and_a_remark_may_change(lake: Lake) -> None:
    first = [{"day": "2024-04-20", "share": 0.5}]
    lake.declare(experiment(ramp=first))
    lake.run_with_users("assign", {"a": START}, START)
    changed = experiment(
        ramp=[*first, {"day": "2024-04-21", "share": 1.0}],
        stopped_on=START + 3 * DAY,
        description="the tap was broken on the first day",
    )
    lake.declare(changed)
    lake.run_with_users("assign", {"a": START}, START + DAY)
    # An older day that is run again does not open the steps that have been taken since.
    lake.run("assign", START, force=True)
    lake.declare(experiment(ramp=[*first, {"day": "2024-04-21", "share": 0.9}]))
    with pytest.raises(BadInput, match="the ramp up to 2024-04-21"):
        lake.run("assign", START)
    lake.declare(changed)
    (row,) = lake.rows("experiments")
    assert (row["frozen_on"], row["assigned_until"]) == (START, START + DAY)
    assert "the tap was broken" in row["declaration"]
    assert "none of towels runs" in lake.run("assign", START + 4 * DAY).details["note"]
