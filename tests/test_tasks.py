"""One formula is asked of what happened and of the forecasts, and both answers mean the same."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from lumos.config import Recipe, Task
from lumos.formulas import Formula
from lumos.tasks import (
    DayForecasts,
    Days,
    auc,
    log_loss,
    task,
    task_columns,
    task_outcomes,
    task_scores,
    wape,
)
from lumos.verbs import BadInput
from tests.accio import small

RECIPE = small.recipe()  # visit_10d: any, visit_3d: any, minutes_10d: sum


@task(answer="binary", window_days=7, metric="auc", has_head=True)
def churn_7d(days: Days) -> np.ndarray:
    """Nobody comes for a week."""
    return 1 - days.any("visited")


@task(answer="binary", window_days=4)
def twice(days: Days) -> np.ndarray:
    """At least two visits."""
    return days.at_least(2, "visited")


@task(answer="amount", window_days=5)
def minutes_late(days: Days) -> np.ndarray:
    """Minutes of the days after the second, less the visits."""
    return days.between(3, 5).sum("minutes") - days.sum("visited")


@task(answer="binary", window_days=6)
def comes_back(days: Days) -> np.ndarray:
    """Not in the first three days, but in the next three."""
    return (1 - days.between(1, 3).any("visited")) * days.between(4, 6).any("visited")


@task(answer="binary", window_days=5)
def on_day_5(days: Days) -> np.ndarray:
    """There on the fifth day."""
    return days.on(5, "visited")


@task(answer="binary", window_days=10, has_head=True)
def big_spender(days: Days) -> np.ndarray:
    """A threshold: only a head can say."""
    return days.sum("spend") > 100


def asking(*tasks: Task) -> Recipe:
    """The tiny recipe with other questions."""
    return Recipe.model_validate(RECIPE.model_dump() | {"tasks": [t.model_dump() for t in tasks]})


def forecasts(p: np.ndarray, mean: np.ndarray, **heads: np.ndarray) -> DayForecasts:
    """Of users whose two binary columns, and two continuous ones, are alike."""
    p, mean = (np.repeat(a[..., None], 2, axis=2).astype(np.float32) for a in (p, mean))
    return DayForecasts(p, mean, mean, heads)


def outcomes_of(visited: np.ndarray, minutes: np.ndarray) -> np.ndarray:
    """Targets with these columns, (N, F, d_u)."""
    return np.stack([visited, visited, minutes, minutes], axis=2).astype(np.float32)


def test_a_task_joins_the_days_of_its_window_alone() -> None:
    p = np.full((2, 10), 0.5)
    p[1, :3] = [0.1, 0.0, 1.0]
    scores = task_scores(RECIPE, forecasts(p, np.ones((2, 10))))
    assert scores["visit_3d"] == pytest.approx([1 - 0.5**3, 1.0])
    assert scores["visit_10d"] == pytest.approx([1 - 0.5**10, 1.0])
    assert scores["minutes_10d"] == pytest.approx([10, 10])


def test_outcomes_ask_the_same_questions_of_what_came_true() -> None:
    targets = np.zeros((3, 10, 4), np.float32)
    targets[0, 5, 0] = 1
    targets[1, 2, 0] = 1
    targets[0, 5, 2] = 45
    outcomes = task_outcomes(RECIPE, targets)
    assert outcomes["visit_10d"].tolist() == [1, 1, 0]
    assert outcomes["visit_3d"].tolist() == [0, 1, 0]
    assert outcomes["minutes_10d"].tolist() == [45, 0, 0]
    several = task_outcomes(RECIPE, np.stack([targets, targets[::-1]], axis=1))
    assert several["visit_3d"].tolist() == [[0, 0], [1, 1], [0, 0]]


DECLARED = (churn_7d, twice, minutes_late, comes_back, on_day_5)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1, width=32), min_size=10, max_size=10), st.integers(0, 2**32 - 1))
def test_the_score_is_the_mean_of_the_labels_over_all_that_may_happen(
    chances: list[float], seed: int
) -> None:
    """Every way the ten days may turn out, weighted by its chance."""
    recipe, p = asking(*DECLARED), np.array(chances)
    if_active = np.random.default_rng(seed).gamma(1, 30, 10).astype(np.float32)
    days = np.array(list(itertools.product((0, 1), repeat=10)))
    weight = np.prod(np.where(days, p, 1 - p), axis=1)

    labels = task_outcomes(recipe, outcomes_of(days, days * if_active))
    scores = task_scores(recipe, forecasts(p[None], (p * if_active)[None]))

    for asked in recipe.tasks:
        expected = weight @ labels[asked.name]
        assert scores[asked.name][0] == pytest.approx(expected, rel=1e-4, abs=1e-5), asked.name


def test_the_tasks_kinds_are_formulas_like_any_other() -> None:
    @task(answer="binary", window_days=3)
    def visits(days: Days) -> np.ndarray:
        return days.any("visited")

    kind = Task(name="kind", kind="any", column="visited", window_days=3)
    p = np.random.default_rng(0).random((50, 10))
    scores = task_scores(asking(visits, kind), forecasts(p, p))
    assert scores["visits"].tolist() == scores["kind"].tolist()
    assert task_columns(visits) == task_columns(kind) == ("visited",)


def test_a_head_answers_before_the_days_do_where_the_recipe_wants_one() -> None:
    p, said = np.full((2, 10), 0.5), np.array([0.25, 0.75], np.float32)
    made = forecasts(p, p, churn_7d=said, twice=said)
    scores = task_scores(asking(churn_7d, twice), made)
    assert scores["churn_7d"].tolist() == said.tolist()
    assert scores["twice"] == pytest.approx([1 - 5 / 16] * 2)
    without = task_scores(asking(churn_7d), forecasts(p, p))
    assert without["churn_7d"] == pytest.approx([0.5**7] * 2)


def test_what_days_cannot_answer_is_asked_of_a_head_alone() -> None:
    p = np.full((2, 10), 0.5)
    median = Task(
        name="m", kind="sum", column="minutes", window_days=3, metric="wape", has_head=True
    )
    for asked in (big_spender, median):
        with pytest.raises(BadInput, match=f"task {asked.name}: only a head .* train a model"):
            task_scores(asking(asked), forecasts(p, p))
        said = {asked.name: np.ones(2, np.float32)}
        assert task_scores(asking(asked), forecasts(p, p, **said))[asked.name].tolist() == [1, 1]
    spent = task_outcomes(
        asking(big_spender), outcomes_of(p * 0, np.array([[9.0], [11.0]]) + 0 * p)
    )
    assert spent["big_spender"].tolist() == [0, 1]


@pytest.mark.parametrize(
    "formula",
    [
        lambda days: days.sum("visited") >= 3,
        lambda days: days.sum("spend") > 1000,
        lambda days: days["visited"].max(axis=1),
        lambda days: (days["visited"] > 0).any(axis=1),
        lambda days: days.any("visited") * days.any("took_class"),
        lambda days: (days["visited"] * days["minutes"]).sum(axis=1),
        lambda days: days.any("visited") ** 2,
        lambda days: np.minimum(days.sum("spend"), 500),
        lambda days: days.sum("spend") / (1 + days.sum("minutes")),
    ],
)
def test_a_formula_whose_mean_is_not_that_of_the_means_needs_a_head(formula: Formula) -> None:
    formula.__name__ = "bent"
    with pytest.raises(ValueError, match=r"task bent: day forecasts cannot answer it.*has_head"):
        task(answer="amount", window_days=10)(formula)
    assert task(answer="amount", window_days=10, has_head=True)(formula).has_head


@pytest.mark.parametrize("window_days", [1, 28, 365])
def test_sums_of_products_of_days_need_none(window_days: int) -> None:
    def straight(days: Days) -> np.ndarray:
        stays_away = np.prod(1 - days["visited"], axis=1)
        return 2 * stays_away + 3 * days.sum("spend") - days.on(1, "visited") + days.any("other")

    assert task(answer="amount", window_days=window_days)(straight).name == "straight"


@pytest.mark.parametrize(
    ("formula", "complaint"),
    [
        (lambda days: days.any("visitd"), "no activity column 'visitd'; choose from .*'visited'"),
        (lambda days: days.any("minutes"), "'minutes' is an amount.*choose from .*'visited'"),
        (lambda days: days["visited"], r"gave shape \(3, 10\), expected .*\(3,\)"),
        (lambda days: days.sum("visited"), "gave 10 for 3 users, expected from 0 to 1"),
        (lambda days: days.sum("visited") / 20, "gave 0.5 for 3 users, expected 0 or 1.*'amount'"),
        (lambda days: days.sum("visited") * np.nan, "gave nan for 3 users"),
    ],
)
def test_a_formula_that_cannot_be_is_told_so_in_a_sentence(
    formula: Formula, complaint: str
) -> None:
    formula.__name__ = "wrong"
    recipe = asking(task(answer="binary", window_days=10)(formula))
    with pytest.raises(BadInput, match=f"task wrong: .*{complaint}"):
        task_outcomes(recipe, np.ones((3, 10, 4), np.float32))


@pytest.mark.parametrize(
    ("formula", "complaint"),
    [
        (lambda days: days.on(11, "visited"), "days 11 to 11 are not among days 1 to 10"),
        (lambda days: days.on(0, "visited"), "days 0 to 0 are not among"),
        (lambda days: days.at_least(0, "visited"), "count from 1"),
        (lambda days: np.ones(3), "asks for no activity column"),
    ],
)
def test_a_formula_that_asks_for_days_that_are_not_there_is_refused_as_declared(
    formula: Formula, complaint: str
) -> None:
    formula.__name__ = "wrong"
    with pytest.raises(ValueError, match=f"task wrong: .*{complaint}"):
        task(answer="binary", window_days=10)(formula)


def test_forecasts_that_are_no_numbers_are_left_to_the_gate() -> None:
    p = np.full((3, 10), 0.5)
    p[0, 2], p[1, 2] = np.nan, 1.5
    scores = task_scores(asking(twice), forecasts(p, p))["twice"]
    assert np.isnan(scores[0])
    assert scores[2] == pytest.approx(1 - 5 / 16)


def test_a_formula_is_named_in_a_file_and_never_run_by_it() -> None:
    recipe = asking(churn_7d)
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert again == recipe
    assert again.tasks[0].formula == f"{__name__}:churn_7d"
    forged = asking(churn_7d.__class__(**{**churn_7d.model_dump(), "formula": "os:getcwd"}))
    with pytest.raises(BadInput, match=re.escape("'os:getcwd' is not declared in this process")):
        task_outcomes(forged, np.zeros((1, 10, 4), np.float32))


def test_a_formula_that_its_name_does_not_determine_is_refused() -> None:
    def on_the(day: int) -> Task:
        @task(answer="binary", window_days=3)
        def on_day(days: Days) -> np.ndarray:
            return days.on(day, "visited")

        return on_day

    with pytest.raises(ValueError, match=r"task on_day: .* at the top of a module"):
        on_the(2)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"answer": "binary", "metric": "wape"}, r"metric='wape', expected one of \['auc'"),
        ({"answer": "amount", "metric": "auc"}, r"metric='auc', expected one of \['squared"),
        ({"answer": "amount", "metric": "wape"}, "asks for a median.*has_head=True"),
        ({"answer": "amount", "window_days": 0}, "greater than or equal to 1"),
        ({"answer": "chance"}, "Input should be 'binary' or 'amount'"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_refused_as_declared(
    fields: dict[str, object], complaint: str
) -> None:
    def asked(days: Days) -> np.ndarray:
        return days.any("visited")

    with pytest.raises(ValueError, match=complaint):
        task(**{"window_days": 3, **fields})(asked)  # type: ignore[arg-type]


def test_measures_match_scikit_learn() -> None:
    random = np.random.default_rng(0)
    outcome, p = random.random(500) < 0.3, random.random(500).round(2)
    assert auc(outcome, p) == pytest.approx(roc_auc_score(outcome, p))
    inside = np.clip(p, 0.01, 0.99)
    assert log_loss(outcome, inside) == pytest.approx(sklearn_log_loss(outcome, inside))


def test_a_measure_that_is_undefined_is_none_and_not_a_guess() -> None:
    assert auc(np.zeros(3), np.arange(3)) is None
    assert wape(np.zeros(3), np.ones(3)) is None
    assert wape(np.array([1.0, 3.0]), np.array([2.0, 1.0])) == pytest.approx(0.75)
    assert np.isfinite(log_loss(np.array([1.0]), np.array([0.0])))
