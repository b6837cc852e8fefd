"""What Spark adds up, against the same arithmetic in plain Python."""

import datetime as dt
import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lumos.delta import open_table, read, replace
from lumos.experiment.assignment import variant_of
from lumos.experiment.declaration import Variant
from lumos.experiment.effects import Moments, compare
from lumos.tables import table_uri
from lumos.verbs import BadInput, GateRefused
from tests.experiment.conftest import START, Lake, experiment

pytestmark = pytest.mark.usefixtures("spark")
DAY = dt.timedelta(days=1)
DATE = START + 9 * DAY
WITHOUT_COST = (START - 3 * DAY, START + DAY, START + 2 * DAY)
USERS = {f"m-{n:02d}é": START + max(0, n - 30) * DAY for n in range(40)}
EXPERIMENT = experiment(
    adjust="pre_period",
    pre_days=3,
    segments=("plan",),
    secondary=(
        {"metric": "active_days", "direction": "up"},
        {"metric": "retention", "direction": "up"},
        {"metric": "offer_cost_per_active_user", "direction": "down"},
    ),
)


def visits(seed: int = 5) -> dict[tuple[str, dt.date], float]:
    """Some before the start, some before registration (late data), most after both.

    On some days nothing is spent: see `without_costs`.
    """
    random = np.random.default_rng(seed)
    costs = {
        (user, START + n * DAY): round(float(random.gamma(1, 3)), 2)
        for user in USERS
        for n in range(-3, 12)
        if random.random() < (0.4 if int(user[2:4]) % 3 else 0.08)
    }
    return {key: 0.0 if key[1] in WITHOUT_COST else cost for key, cost in costs.items()}


def without_costs(lake: Lake) -> None:
    """Null where nothing was spent, as on days from before the column came."""
    uri = table_uri(lake.settings, lake.recipe, "activity")
    rows = read(uri)
    is_without = pc.is_in(rows["day"], pa.array(WITHOUT_COST, pa.date32()))
    spend = pc.if_else(is_without, None, rows["spend"])
    assert 0 < spend.null_count < rows.num_rows
    rows = rows.set_column(rows.column_names.index("spend"), "spend", spend)
    shutil.rmtree(uri)
    lake.ready("activity", DATE, replace(uri, rows, where=None, partition=["day"]))


@pytest.fixture(scope="module")
def measured(spark: object, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Measured once, for the tests that change nothing."""
    lake = Lake.at(tmp_path_factory.mktemp("measured") / "home", EXPERIMENT)
    lake.users(USERS, DATE)
    lake.activity(visits(), DATE)
    without_costs(lake)
    lake.run("assign", DATE)
    lake.run("measure", DATE)
    return lake


def test_outcomes_are_what_plain_python_counts(measured: Lake) -> None:
    variant = dict(zip(USERS, variant_of(USERS, EXPERIMENT), strict=True))
    found = {(row["day"], row["variant"]): row for row in measured.rows("outcomes")}
    assert len(found) == 10 * 2
    for (day, name), row in found.items():
        present = {u for u, joined in USERS.items() if variant[u] == name and joined <= day}
        spent = [s for (u, d), s in visits().items() if d == day and u in present]
        assert row["num_users"] == len(present)
        assert row["num_active"] == len(spent)
        assert row["cost"] == pytest.approx(sum(spent), abs=1e-9)


def assign_and_measure(lake: Lake) -> None:
    lake.run_with_users("assign", USERS, DATE)
    lake.run("measure", DATE)


def declared_effects(lake: Lake) -> list[dict[str, Any]]:
    return [row for row in lake.rows("effects") if row["is_declared"]]


def per_user(metric: str, first: int, last: int) -> dict[str, tuple[float, float]]:
    """Numerator and denominator of each user over days since the start, in plain Python."""
    found = {}
    for user, joined in USERS.items():
        since = max(START, joined)
        begins, ends = (since, DATE) if first == 0 else (since + first * DAY, since + last * DAY)
        days = [day for u, day in visits() if u == user and begins <= day <= ends]
        spent = [cost for (u, day), cost in visits().items() if u == user and day in days]
        length = (ends - begins).days + 1
        recent = any(day > ends - 7 * DAY for day in days)
        found[user] = {
            "dau": (len(days), length),
            "active_days": (len(days), 1),
            "offer_cost_per_active_user": (sum(spent), float(bool(days))),
            "retention": (float(recent and length > 7), float(length > 7)),
        }[metric]
    return found


@pytest.mark.parametrize(
    "metric", ["dau", "active_days", "offer_cost_per_active_user", "retention"]
)
def test_effects_are_what_numpy_says_of_the_same_users(measured: Lake, metric: str) -> None:
    now, before = per_user(metric, 0, 0), per_user(metric, -3, -1)
    variant = dict(zip(USERS, variant_of(USERS, EXPERIMENT), strict=True))
    sides = []
    for name in ("control", "target"):
        ours = [user for user in USERS if variant[user] == name]
        columns = {"numerator": [now[user][0] for user in ours]}
        if metric != "active_days":
            columns["denominator"] = [now[user][1] for user in ours]
        columns["pre_numerator"] = [before[user][0] for user in ours]
        if metric != "active_days":
            columns["pre_denominator"] = [before[user][1] for user in ours]
        sides.append(Moments.of({key: np.array(value) for key, value in columns.items()}))
    adjust = [name for name in sides[0].names if name.startswith("pre_")]
    expected = compare(*sides, alpha=0.05, adjust=adjust)
    (row,) = (
        row
        for row in measured.rows("effects")
        if row["metric"] == metric and row["segment"] == "all" and row["adjust"] == "pre_period"
    )
    names = ("control", "treatment", "effect", "error", "relative", "variance_reduction")
    found = {name: row[name] for name in names}
    assert found == pytest.approx({name: getattr(expected, name) for name in names}, abs=1e-9)
    assert row["low"] < row["effect"] < row["high"]
    assert row["num_control"] + row["num_treatment"] == len(USERS)


def test_nothing_is_a_plain_p_value_before_the_planned_end(measured: Lake) -> None:
    rows = measured.rows("effects")
    assert {row["rule"] for row in rows} <= {"group_sequential", "always_valid", "none"}
    (decides,) = (row for row in rows if row["rule"] == "group_sequential")
    assert (decides["metric"], decides["segment"]) == ("dau", "all")
    # Ten of 28 days have spent next to nothing of alpha, so the interval is far wider than plain.
    assert decides["high"] - decides["low"] > 2 * 3 * decides["error"]
    (look,) = measured.rows("looks")
    assert look["day"] == 10
    assert (look["low"], look["high"]) == (decides["low"], decides["high"])
    assert look["alpha_spent"] < 0.001
    assert look["bound"] > 3
    assert not look["is_crossed"]
    assert look["advice"].startswith("Go on: nothing is decided yet; 18 of 28 days are left")


def test_sums_and_effects_by_segment_add_up_to_all(measured: Lake) -> None:
    rows = [row for row in measured.rows("moments") if row["metric"] == "dau"]
    keys = ("variant", "left", "right")
    whole = {tuple(row[k] for k in keys): row["value"] for row in rows if row["segment"] == "all"}
    parts: dict[tuple[str, ...], float] = {}
    for row in rows:
        if row["segment"] != "all":
            key = tuple(row[k] for k in keys)
            parts[key] = parts.get(key, 0.0) + row["value"]
    assert parts == pytest.approx(whole)
    assert {row["segment"] for row in rows} == {"all", "plan=unknown"}


def test_measuring_twice_equals_measuring_once_to_the_last_bit(measured: Lake) -> None:
    before = {
        name: measured.rows(name) for name in ("outcomes", "moments", "effects", "looks", "metrics")
    }
    uri = table_uri(measured.settings, measured.recipe, "outcomes")
    version = open_table(uri).version()
    assert measured.run("measure", DATE).already_done
    assert open_table(uri).version() == version
    again = measured.run("measure", DATE, force=True)
    assert not again.already_done
    assert {item.table: item.rows for item in again.tables}["looks"] == 1
    assert {name: measured.rows(name) for name in before} == before


def test_an_older_date_undoes_no_later_day_no_late_data_and_nothing_that_was_shown(
    lake: Lake,
) -> None:
    early = DATE - 4 * DAY
    lake.users(USERS, DATE, early)
    first, late = visits(), {(user, START + DAY): 9.0 for user in USERS}

    def is_full(day: dt.date) -> bool:
        rows = [row for row in lake.rows("outcomes") if row["day"] == day]
        return all(row["num_active"] == row["num_users"] for row in rows)

    lake.activity(first, early)
    lake.run("assign", early)
    lake.run("measure", early)
    assert not is_full(START + DAY)
    lake.activity(first | late, DATE)
    lake.run("assign", DATE)
    lake.run("measure", DATE)
    before, effects = lake.rows("outcomes"), lake.rows("effects")
    assert is_full(START + DAY)

    again = lake.run("measure", early, force=True)
    assert (lake.rows("outcomes"), lake.rows("effects")) == (before, effects)
    assert again.tables[0].rows == 6 * 2

    shown = lake.rows("looks")
    assert [row["day"] for row in shown] == [6, 10]
    later_still = {(user, START): 1.0 for user in USERS}
    between = DATE - 2 * DAY
    lake.users(USERS, between)
    for date in (early, between):
        lake.activity(first | late | later_still, date)
    lake.run("measure", early)
    assert is_full(START)
    assert is_full(START + DAY)
    assert len(lake.rows("outcomes")) == 10 * 2
    lake.run("assign", between)
    lake.run("measure", between)

    assert lake.rows("looks") == shown, "what was shown on a morning stays"
    now = {row["as_of"]: row for row in declared_effects(lake) if row["metric"] == "dau"}
    assert now[early]["effect"] != shown[0]["effect"]
    assert now[early]["rule"] == "group_sequential"  # held to the bound that the look had
    assert now[between]["rule"] == "always_valid"  # nobody looked on that morning


def test_a_broken_split_hides_every_effect_and_is_critical(lake: Lake) -> None:
    three = (
        Variant(name="control", weight=0.4),
        Variant(name="small", weight=0.3),
        Variant(name="big", weight=0.3),
    )
    lake.declare(experiment(variants=three, is_simulated_split=True, exposures="shown.sql"))
    users = {f"u{n}": START for n in range(300)}
    # A log that has lost most of one variant.
    arm = variant_of(users, experiment(variants=three))
    kept = [user for user, name in zip(users, arm, strict=True) if name != "big" or user[-1] == "7"]
    values = ", ".join(f"('{user}', DATE'{START}')" for user in kept)
    sql = f"SELECT * FROM VALUES {values} AS t(user_id, day)"
    (lake.folder / "shown.sql").write_text(sql, encoding="utf-8")
    lake.activity({(user, START): 1.0 for user in list(users)[::3]}, START)
    lake.run_with_users("assign", users, START)
    report = lake.run("measure", START)

    (row,) = (row for row in lake.rows("metrics") if row["name"] == "srm_p_value")
    assert row["verdict"] == "critical"
    assert "believe no effect" in row["message"]
    assert any("sample ratio broken" in note for note in report.details["notes"])
    assert any("nobody was treated" in note for note in report.details["notes"])
    effects = lake.rows("effects")
    assert {(row["metric"], row["variant"]) for row in effects} == {
        (metric, variant) for metric in ("dau", "offer_cost") for variant in ("big", "small")
    }
    assert all(row["srm_p_value"] < 0.001 for row in effects)
    hidden = ("control", "treatment", "effect", "error", "relative", "low", "high", "p_value")
    assert all(row[name] is None for row in effects for name in hidden)
    looks = lake.rows("looks")
    assert all(row["effect"] is None and "mend the split" in row["advice"] for row in looks)
    hidden_words = [r["message"] for r in lake.rows("metrics") if r["name"].endswith(".effect")]
    assert all("hidden" in message for message in hidden_words)


def test_a_guardrail_that_gets_worse_beyond_chance_is_critical(lake: Lake) -> None:
    users = {f"u{n:03d}": START for n in range(200)}
    arm = dict(zip(users, variant_of(users, experiment()), strict=True))
    dear = {"control": 1.0, "target": 3.0}
    random = np.random.default_rng(1)
    spent = {(u, START): round(dear[str(arm[u])] + float(random.random()), 2) for u in users}
    lake.activity(spent, START)
    lake.run_with_users("assign", users, START)
    lake.run("measure", START)
    (row,) = (r for r in lake.rows("metrics") if r["name"] == "offer_cost.target.effect")
    assert row["verdict"] == "critical"
    assert "guardrail offer_cost is crossed" in row["message"]
    (look,) = lake.rows("looks")
    assert look["advice"].startswith("Stop target or find out why: offer_cost got worse")


def test_an_experiment_of_one_day_ends_with_plain_answers(lake: Lake) -> None:
    lake.declare(
        experiment(
            planned_days=1,
            secondary=(
                {"metric": "active_days", "direction": "up"},
                {"metric": "retention", "direction": "up"},
            ),
        )
    )
    users = {f"u{n:03d}": START for n in range(100)}
    lake.activity({(user, START): 1.0 for user in list(users)[::5]}, START)
    lake.run_with_users("assign", users, START)
    lake.run("measure", START)
    rules = {row["metric"]: row for row in declared_effects(lake)}
    assert rules["dau"]["rule"] == "group_sequential"
    assert rules["active_days"]["rule"] == "fixed"
    assert rules["active_days"]["p_adjusted"] == rules["active_days"]["p_value"]
    (look,) = lake.rows("looks")
    assert look["bound"] == pytest.approx(1.96, abs=0.001)
    # Nobody has been there for more than a week: no fault, and no sign of a broken split.
    assert (rules["retention"]["effect"], rules["retention"]["rule"]) == (None, "none")
    said = {row["name"]: row["message"] for row in lake.rows("metrics")}
    assert said["retention.target.effect"].startswith("not known yet: no user has anything")
    assert look["advice"].startswith("Planned end")


def test_one_day_of_equal_costs_and_no_visit_gives_effects_without_p(lake: Lake) -> None:
    lake.users(USERS, START)
    present = [user for user, joined in USERS.items() if joined == START]
    lake.activity({(user, START): 2.5 for user in present}, START, inactive=True)
    lake.run("assign", START)
    lake.run("measure", START)
    assert all(row["num_active"] == 0 for row in lake.rows("outcomes"))
    assert sum(row["cost"] for row in lake.rows("outcomes")) == 2.5 * len(present)
    for row in lake.rows("effects"):
        assert row["effect"] == 0
        assert row["p_value"] is row["low"] is row["high"] is None
    (look,) = lake.rows("looks")
    assert "no variance between users yet" in look["advice"]
    messages = [row["message"] for row in lake.rows("metrics") if row["name"].endswith(".effect")]
    assert all("without variance between users there is no interval" in m for m in messages)


def test_activity_before_a_users_exposure_counts_for_nobody_and_is_told(measured: Lake) -> None:
    (row,) = (r for r in measured.rows("metrics") if r["name"] == "rows_before_exposure")
    late = {user: joined for user, joined in USERS.items() if joined > START}
    before = [1 for user, day in visits() if user in late and START <= day < late[user]]
    assert row["value"] == len(before) > 0


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("SELECT user_id, day AS numerator FROM user_days", r"odd\.sql cannot be run.*DATE"),
        ("SELECT user_id, 1 AS value FROM user_days", "expected user_id, numerator and"),
        ("SELECT user_id, cost AS numerator FROM user_days", "more than one row for a user"),
        (
            "SELECT user_id, CAST('Infinity' AS DOUBLE) AS numerator FROM user_days GROUP BY 1",
            "have a numerator that is not a finite number below 1e\\+12",
        ),
        (
            "-- winsorize: 12\nSELECT user_id, 1 AS numerator FROM user_days GROUP BY 1",
            "winsorize: 12, expected a quantile",
        ),
    ],
)
def test_a_metric_at_fault_is_bad_input(lake: Lake, sql: str, complaint: str) -> None:
    lake.declare(experiment(secondary=({"metric": "odd", "direction": "up"},)))
    (lake.folder.parent / "metrics").mkdir()
    (lake.folder.parent / "metrics" / "odd.sql").write_text(sql, encoding="utf-8")
    lake.activity(visits(), DATE)
    with pytest.raises(BadInput, match=complaint):
        assign_and_measure(lake)


def test_the_largest_in_a_thousand_count_as_the_next_in_both_variants(lake: Lake) -> None:
    metrics = lake.folder.parent / "metrics"
    metrics.mkdir()
    text = "-- winsorize: 0.9\nSELECT user_id, sum(cost) AS numerator FROM user_days GROUP BY 1"
    (metrics / "capped.sql").write_text(text, encoding="utf-8")
    lake.declare(experiment(secondary=({"metric": "capped", "direction": "up"},)))
    users = {f"u{n:02d}": START for n in range(41)}
    spent = {(user, START): float(n) for n, user in enumerate(users)}
    lake.activity(spent | {("u40", START): 1e9}, START)
    lake.run_with_users("assign", users, START)
    lake.run("measure", START)
    total = sum(
        row["value"]
        for row in lake.rows("moments")
        if row["metric"] == "capped" and (row["left"], row["right"]) == ("one", "numerator")
    )
    assert total == sum(min(n, 36) for n in range(41))


def test_an_experiment_without_users_or_at_fault_stops_no_other(lake: Lake) -> None:
    """One has met users of one variant only; of others the log or a metric is at fault."""
    alone = "m-00é"
    lake.declare(
        experiment(),
        experiment(name="young", start=DATE, exposures="met.sql"),
        experiment(name="lost", exposures="odd.sql"),
        experiment(name="wrong", secondary=({"metric": "odd", "direction": "up"},)),
    )
    (lake.folder / "met.sql").write_text(f"SELECT '{alone}' AS user_id, DATE'{DATE}' AS day")
    (lake.folder / "odd.sql").write_text("SELECT user_id FROM users")
    metrics = lake.folder.parent / "metrics"
    metrics.mkdir(exist_ok=True)
    (metrics / "odd.sql").write_text("SELECT user_id FROM user_days")
    lake.users(USERS, DATE)
    lake.activity(visits(), DATE)
    with pytest.raises(
        BadInput, match=r"odd\.sql returns user_id.* are done: towels, wrong, young"
    ):
        lake.run("assign", DATE)
    for _ in range(2):  # a retry does not turn green
        with pytest.raises(BadInput, match=r"odd\.sql .* are done: towels, young") as refused:
            lake.run("measure", DATE)
        assert f"experiment lost was not assigned for {DATE}" in str(refused.value)
    assert {row["experiment"] for row in lake.rows("effects")} == {"towels"}
    figures = [row for row in lake.rows("metrics") if row["segment"] == "young"]
    said = {row["name"]: (row["verdict"], row["value"]) for row in figures}
    (mine,) = variant_of([alone], experiment(name="young"))
    assert said[f"num_users.{mine}"] == ("info", 1)
    assert said["missing.0"][0] == "warning"
    assert said["srm_p_value"][0] == "ok"
    with pytest.raises(
        BadInput,
        match=r"experiment lost .* experiment wrong .* was not measured .* are done: towels",
    ):
        lake.run("review", DATE)


def test_a_variant_that_lost_all_its_exposures_is_a_broken_split(lake: Lake) -> None:
    users = [f"u{n}" for n in range(60)]
    control = [
        u for u, v in zip(users, variant_of(users, experiment()), strict=True) if v != "target"
    ]
    lake.declare(experiment(exposures="met.sql"))
    rows = ", ".join(f"('{user}', DATE'{START}')" for user in control)
    (lake.folder / "met.sql").write_text(f"SELECT * FROM VALUES {rows} AS t(user_id, day)")
    lake.users(dict.fromkeys(users, START), DATE)
    lake.activity({(users[0], START): 1.0}, DATE)
    lake.run("assign", DATE)
    notes = lake.run("measure", DATE).details["notes"]
    assert any("no users yet in target" in note for note in notes)
    with pytest.raises(GateRefused, match=r"sample ratio broken: .* 0 target"):
        lake.run("review", DATE)


def test_effects_in_tiny_units_keep_their_digits(lake: Lake) -> None:
    declared = experiment(adjust="pre_period", pre_days=3)
    effects, costs = [], []
    for scale in (1.0, 1e-9):
        lake.declare(declared)
        lake.users(USERS, DATE)
        lake.activity({key: cost * scale for key, cost in visits().items()}, DATE)
        lake.run("assign", DATE)
        lake.run("measure", DATE)
        rows = [row for row in lake.rows("effects") if row["metric"] == "offer_cost"]
        costs.append([row["cost"] / scale for row in lake.rows("outcomes")])
        effects.append(
            [
                [row["relative"], row["effect"] / scale, row["error"] / scale, row["low"] / scale]
                for row in rows
            ]
        )
    np.testing.assert_allclose(effects[1], effects[0], rtol=1e-6)
    np.testing.assert_allclose(costs[1], costs[0], rtol=1e-6)


def test_activity_that_starts_too_late_is_bad_input(lake: Lake) -> None:
    lake.users({"u0": START}, DATE)
    lake.activity({("u0", START + DAY): 1.0}, DATE)
    lake.run("assign", DATE)
    with pytest.raises(BadInput, match=r"begins on 2024-04-21.*--days 10"):
        lake.run("measure", DATE)
