import datetime as dt
import hashlib
import itertools
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lumos.experiment.assignment import (
    LISTED,
    TOO_EARLY,
    TWO_VARIANTS,
    bucket_shares,
    buckets_of,
    exposed_from,
    variant_of,
)
from lumos.experiment.declaration import (
    NUM_BUCKETS,
    Experiment,
    Holdout,
    Layer,
    Step,
    Variant,
)
from lumos.verbs import BadInput
from tests.experiment.conftest import START, Lake, experiment

DAY = dt.timedelta(days=1)
TOWELS = experiment()
MANY = [f"user-{n}" for n in range(50_000)]
THREE = (
    Variant(name="control", weight=0.7),
    Variant(name="small", weight=0.1),
    Variant(name="big", weight=0.2),
)


def test_a_known_user_is_in_the_bucket_that_any_other_language_would_compute() -> None:
    digest = hashlib.sha256("towels|m-001é".encode()).digest()
    expected = int.from_bytes(digest[:8], "big") % 10_000
    assert buckets_of(["m-001é"], "towels").tolist() == [expected]


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(st.lists(st.text(), max_size=20))
def test_a_users_variant_depends_on_nothing_but_the_user_and_the_experiment(
    users: list[str],
) -> None:
    whole = dict(zip(users, variant_of(users, TOWELS).tolist(), strict=True))
    shuffled = random.Random(1).sample(users, len(users))
    assert {user: variant_of([user], TOWELS).item() for user in shuffled} == whole


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=6))
def test_every_bucket_belongs_to_one_variant_and_shares_are_the_weights(
    weights: list[float],
) -> None:
    total = sum(weights)
    variants = tuple(
        Variant(name=f"v{n}", weight=weight / total) for n, weight in enumerate(weights)
    )
    shares = bucket_shares(experiment(variants=variants))
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(shares, np.array(weights) / total, atol=1 / NUM_BUCKETS)


def test_buckets_are_uniform() -> None:
    counts = np.bincount(buckets_of(MANY, "towels") // 100, minlength=100)
    assert stats.chisquare(counts).pvalue > 0.001


def test_variants_have_their_weights() -> None:
    found = variant_of(MANY, experiment(variants=THREE))
    counts = [(found == variant.name).sum() for variant in THREE]
    expected = [variant.weight * len(MANY) for variant in THREE]
    assert stats.chisquare(counts, expected).pvalue > 0.001


def test_two_experiments_split_users_independently() -> None:
    one = variant_of(MANY, experiment(name="one", variants=THREE))
    two = variant_of(MANY, experiment(name="two"))
    table = [[((one == a.name) & (two == b)).sum() for b in ("control", "target")] for a in THREE]
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_a_user_is_exposed_from_the_start_or_from_registration(lake: Lake) -> None:
    date = START + 5 * DAY
    lake.users({"old": START - 90 * DAY, "new": START + 2 * DAY, "future": date + DAY}, date)
    report = lake.run("assign", date)
    exposed = {row["user_id"]: row["exposed_on"] for row in lake.rows("exposures")}
    assert exposed == {"old": START, "new": START + 2 * DAY}
    assert report.tables[0].rows == 2
    assert sum(value or 0 for value in report.metrics.values()) == 2


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_dates_in_any_order_give_the_same_exposures(lake: Lake, order: tuple[int, ...]) -> None:
    # Late data found on the last date moves u0's first visit to before the start.
    known = [
        {"u0": START + 2 * DAY, "u1": START},
        {"u0": START + 2 * DAY, "u1": START, "u2": START + 3 * DAY},
        {"u0": START, "u1": START, "u2": START + 3 * DAY, "u3": START + 4 * DAY},
    ]
    dates = [START + n * DAY for n in (2, 3, 4)]
    for n in order:
        lake.users(known[n], dates[n])
        lake.run("assign", dates[n])
    exposed = {row["user_id"]: row["exposed_on"] for row in lake.rows("exposures")}
    assert exposed == known[2]
    assert len(lake.rows("exposures")) == 4


def test_rerunning_an_older_date_loses_nothing_and_changes_nothing(lake: Lake) -> None:
    early, late = START + 1 * DAY, START + 4 * DAY
    lake.users({f"u{n}": START + n * DAY for n in range(5)}, late, early)
    lake.run("assign", early)
    lake.run("assign", late)
    before = lake.rows("exposures")
    again = lake.run("assign", early, force=True)
    assert len(before) == 5
    assert lake.rows("exposures") == before
    assert again.tables[0].rows == 2
    assert lake.run("assign", late).already_done


def test_two_dates_at_the_same_moment_lose_no_user(lake: Lake) -> None:
    dates = [START + n * DAY for n in range(4)]
    lake.users({f"u{n}": START + (n % 4) * DAY for n in range(80)}, *dates)
    lake.run("assign", dates[0])
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda date: lake.run("assign", date), dates[1:]))
    rows = lake.rows("exposures")
    assert len(rows) == 80
    assert len({row["user_id"] for row in rows}) == 80


def test_all_running_experiments_are_assigned_side_by_side(lake: Lake) -> None:
    later = experiment(name="later", start=START + 30 * DAY)
    lake.declare(experiment(), experiment(name="other"), later)
    lake.users({"a": START, "b": START}, START)
    report = lake.run("assign", START)
    assert report.details["experiments"] == ["other", "towels"]
    found = [(row["experiment"], row["user_id"]) for row in lake.rows("exposures")]
    assert sorted(found) == [("other", "a"), ("other", "b"), ("towels", "a"), ("towels", "b")]


def test_an_experiment_at_fault_stops_no_other_and_is_named_at_the_end(lake: Lake) -> None:
    lake.declare(experiment(), experiment(name="older"), experiment(name="lost", excluded="no.txt"))
    broken = lake.folder / "broken.toml"
    broken.write_text("name = ", encoding="utf-8")
    lake.users({"a": START, "b": START}, START)
    for _ in range(2):  # a retry does not turn green
        with pytest.raises(BadInput, match=r"broken\.toml is not TOML") as refused:
            lake.run("assign", START)
        assert "lost names no.txt, which is not there" in str(refused.value)
        assert "All other experiments are done: older, towels" in str(refused.value)
        assert {row["experiment"] for row in lake.rows("exposures")} == {"older", "towels"}
    # Who asks for one hears of no other; who asks for the one at fault does.
    assert lake.run("assign", START, experiment="towels").tables
    with pytest.raises(BadInput, match=r"broken\.toml is not TOML"):
        lake.run("assign", START, experiment="broken")
    broken.unlink()
    (lake.folder / "no.txt").write_text("a\n", encoding="utf-8")
    assert lake.run("assign", START).details["experiments"] == ["lost", "older", "towels"]


@pytest.mark.parametrize("verb", ["assign", "measure"])
def test_a_recipe_without_experiments_ends_well_and_says_so(lake: Lake, verb: str) -> None:
    lake.declare()
    report = lake.run(verb, START)
    assert "no experiment is declared" in report.details["note"]
    assert not report.tables


@pytest.mark.parametrize("verb", ["assign", "measure"])
@pytest.mark.parametrize("days", [-1, 28])
def test_a_date_on_which_nothing_runs_ends_well(lake: Lake, verb: str, days: int) -> None:
    report = lake.run(verb, START + days * DAY)
    assert "none of towels runs on" in report.details["note"]
    assert not report.tables


@pytest.mark.parametrize("verb", ["assign", "measure"])
def test_bad_requests_end_in_a_sentence_with_the_choices(lake: Lake, verb: str) -> None:
    with pytest.raises(BadInput, match=r"no experiment 'towel'; declared are towels"):
        lake.run(verb, START, experiment="towel")
    with pytest.raises(BadInput, match=r"towels runs from 2024-04-20 to 2024-05-17"):
        lake.run(verb, START - DAY, experiment="towels")
    with pytest.raises(BadInput, match=r"not ready for 2024-04-20.*Run lumos aggregate"):
        lake.run(verb, START)


def test_a_larger_share_of_the_ramp_adds_users_and_moves_nobody(lake: Lake) -> None:
    def ramp(*steps: tuple[int, float]) -> Experiment:
        days = tuple(Step(day=START + n * DAY, share=share) for n, share in steps)
        return experiment(ramp=days)

    users = [f"u{n}" for n in range(400)]
    dates = [START + n * DAY for n in range(4)]
    lake.users(dict.fromkeys(users, START - DAY), *dates)
    found = []
    for date, declared in zip(
        dates,
        [
            ramp((0, 0.1)),
            ramp((0, 0.1), (1, 0.5)),
            ramp((0, 0.1), (1, 0.5)),
            ramp((0, 0.1), (1, 0.5), (3, 1)),
        ],
        strict=True,
    ):
        lake.declare(declared)
        lake.run("assign", date)
        found.append(
            {row["user_id"]: (row["variant"], row["exposed_on"]) for row in lake.rows("exposures")}
        )
    for before, after in itertools.pairwise(found):
        assert before.items() <= after.items()
    early = [variant for variant, _ in found[0].values()]
    assert 0.3 < early.count("target") / len(early) < 0.7  # the ramp asks another question
    assert [round(len(rows) / 400, 1) for rows in found] == [0.1, 0.5, 0.5, 1.0]
    assert {day for _, day in found[-1].values()} == {START, START + DAY, START + 3 * DAY}


def test_experiments_of_a_layer_share_no_user_and_a_holdout_is_in_none() -> None:
    holdout = Holdout(name="year", share=0.1)
    registered = np.full(len(MANY), np.datetime64(START - DAY, "D"))

    def takes_part(name: str, first: int, end: int) -> np.ndarray:
        layer = Layer(name="offers", buckets=(first, end))
        days = exposed_from(MANY, registered, experiment(name=name, layer=layer, holdout=holdout))
        return ~np.isnat(days)

    one, other = takes_part("one", 0, 4_000), takes_part("other", 4_000, 10_000)
    assert not (one & other).any()
    held = ~(one | other)
    assert held.mean() == pytest.approx(0.1, abs=0.005)
    np.testing.assert_array_equal(held, buckets_of(MANY, "holdout|year") < 1_000)
    assert one.mean() == pytest.approx(0.9 * 0.4, abs=0.01)


def test_who_is_excluded_by_list_takes_no_part_and_strangers_on_it_are_told(lake: Lake) -> None:
    lake.declare(experiment(excluded="staff.txt"))
    with pytest.raises(BadInput, match=r"names staff.txt, which is not there"):
        lake.run_with_users("assign", {"a": START}, START)
    (lake.folder / "staff.txt").write_text("b\nnobody\n\n", encoding="utf-8")
    report = lake.run_with_users("assign", {"a": START, "b": START}, START)
    assert [row["user_id"] for row in lake.rows("exposures")] == ["a"]
    assert report.details["notes"] == ["towels: 1 of staff.txt are no users"]


def test_who_is_put_on_the_list_of_excluded_users_later_does_not_count_from_then_on(
    lake: Lake,
) -> None:
    lake.declare(experiment(excluded="staff.txt"))
    staff = lake.folder / "staff.txt"
    users = dict.fromkeys("abcd", START)
    dates = [START + n * DAY for n in range(4)]
    lake.users(users, dates[-1], *dates[:-1])

    def assigned(date: dt.date, listed: str) -> tuple[dict[str, str | None], float]:
        staff.write_text(listed, encoding="utf-8")
        report = lake.run("assign", date)
        counted = sum(value or 0 for value in report.metrics.values())
        return {row["user_id"]: row["excluded"] for row in lake.rows("exposures")}, counted

    # Some editors put a byte order mark before the first user.
    assert assigned(dates[0], "\ufeffa\n") == ({"b": None, "c": None, "d": None}, 3)
    found = {"b": LISTED, "c": None, "d": None}
    assert assigned(dates[1], "a\nb\n") == (found, 2)
    # The list as it is today holds for an older date that is run again, too.
    assert assigned(dates[0], "a\nb\n") == (found, 2)
    assert assigned(dates[2], "a\nc\n") == ({"b": None, "c": LISTED, "d": None}, 2)
    assert assigned(dates[3], "c\n") == ({"a": None, "b": None, "c": LISTED, "d": None}, 3)
    notes = lake.run("assign", dates[3], force=True).details["notes"]
    assert notes == [f"towels: 1 users do not count, {LISTED}"]
    staff.write_bytes("c\n".encode("utf-16"))
    with pytest.raises(BadInput, match=r"staff\.txt is not UTF-8"):
        lake.run("assign", dates[3])


@pytest.mark.usefixtures("spark")
def test_only_the_eligible_take_part_and_whoever_does_stays(lake: Lake) -> None:
    lake.declare(experiment(eligible="visitors.sql"))
    sql = "SELECT DISTINCT user_id FROM activity WHERE day BETWEEN date_sub(:as_of, 6) AND :as_of"
    (lake.folder / "visitors.sql").write_text(sql, encoding="utf-8")
    users = {"a": START - DAY, "b": START - DAY, "c": START - DAY}
    for date, visitor in ((START, "a"), (START + 10 * DAY, "b")):
        lake.users(users, date)
        lake.activity({(visitor, date): 1.0}, date)
        lake.run("assign", date)
    assert [row["user_id"] for row in lake.rows("exposures")] == ["a", "b"]


@pytest.mark.usefixtures("spark")
def test_the_log_of_exposures_decides_who_counts_and_nobody_is_dropped_in_silence(
    lake: Lake,
) -> None:
    lake.declare(experiment(exposures="shown.sql"))
    users = {name: START - 9 * DAY for name in ("met", "never", "early", "both", "other", "odd")}
    arm = dict(zip(users, variant_of(users, experiment()).tolist(), strict=True))
    wrong = {"control": "target", "target": "control"}
    rows = [
        ("met", START + 2 * DAY, arm["met"]),
        ("met", START + 4 * DAY, arm["met"]),
        ("early", START - DAY, arm["early"]),
        ("both", START + DAY, "control"),
        ("both", START + DAY, "target"),
        ("other", START, wrong[arm["other"]]),
        ("stranger", START, "control"),
        (None, START, "control"),
    ]
    values = ", ".join(
        f"({'NULL' if user is None else repr(user)}, DATE'{day}', '{variant}')"
        for user, day, variant in rows
    )
    path = lake.folder / "shown.sql"
    path.write_text(f"SELECT * FROM VALUES {values} AS t(user_id, day, variant)", encoding="utf-8")
    date = START + 5 * DAY
    lake.activity({("met", START): 1.0}, date)
    report = lake.run_with_users("assign", users, date)
    found = {row["user_id"]: (row["exposed_on"], row["excluded"]) for row in lake.rows("exposures")}
    assert found["met"] == (START + 2 * DAY, None)
    assert set(found) == {"met", "early", "both", "other"}
    assert found["early"][1] == TOO_EARLY
    assert found["both"][1] == found["other"][1] == TWO_VARIANTS
    notes = " / ".join(report.details["notes"])
    assert "1 rows of shown.sql have no user or no day" in notes
    assert "1 users of the log are not registered" in notes
    assert "2 users do not count, in two variants" in notes
    assert "1 users do not count, exposed before the start" in notes
    counted = sum(value or 0 for value in report.metrics.values())
    assert counted == 1


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("SELECT user_id, now() AS day FROM users", r"day timestamp.*to_date\(from_utc_timestamp"),
        ("SELECT user_id FROM users", r"expected user_id string, day date"),
        ("SELECT user_id, day, 'blue' AS variant FROM activity", r"variants \['blue'\] are not"),
        ("SELEC user_id", r"shown.sql cannot be run"),
    ],
)
def test_a_log_that_says_something_else_is_bad_input(lake: Lake, sql: str, complaint: str) -> None:
    lake.declare(experiment(exposures="shown.sql"))
    (lake.folder / "shown.sql").write_text(sql, encoding="utf-8")
    lake.activity({("a", START): 1.0}, START)
    with pytest.raises(BadInput, match=complaint):
        lake.run_with_users("assign", {"a": START}, START)
