"""Promotion and rollback: only what is good enough serves, and there is a way back."""

import pytest

from lumos import ledger
from lumos.delta import read
from lumos.overrides import override
from lumos.recipes import load
from lumos.serve import registry
from lumos.tables import table_uri
from lumos.verbs import BadInput, GateRefused, Request, TableWritten
from tests.conftest import RECIPE, World
from tests.serve.models import alias, crown, register

RECIPE_OBJECT = load(RECIPE)
NO_WORSE = "no worse than the others in the evaluation up to 2024-05-10"


def judge(
    world: World, version: str, rival: str | None, *, why_not: str = "", **losses: float
) -> None:
    """Enter an evaluation with these primary losses, as ``evaluate`` does."""
    request = world.request("evaluate")
    written = TableWritten(table="evaluations", version=1, rows=480)
    report = request.report(
        tables=(written,),
        metrics={f"{name}.primary_loss": loss for name, loss in losses.items()},
        details={
            "challenger": version,
            "champion": rival,
            "champion_not_compared": {why_not: "because"} if why_not else {},
        },
    )
    inputs = {"challenger": version, "champion": rival or "none"}
    ledger.record(request, report, inputs=inputs)


def decisions(world: World) -> list[tuple[str, float, str]]:
    """What `metrics` says was decided."""
    rows = read(table_uri(world.settings, RECIPE_OBJECT, "metrics"))
    assert rows is not None
    return [
        (row["segment"], row["value"], row["message"])
        for row in rows.to_pylist()
        if row["job"] == "promote" and row["name"] == "promoted"
    ]


def aliases(world: World) -> tuple[str | None, str | None, str | None]:
    """Champion, previous champion, challenger."""
    champion, previous, challenger = (
        alias(world, name) for name in ("champion", "previous_champion", "challenger")
    )
    return champion, previous, challenger


def two_champions(world: World) -> None:
    """Version 2 is champion after version 1."""
    judge(world, "1", None, challenger=0.6, recency=0.7)
    world.run("promote")
    register(world, seed=2)
    judge(world, "2", "1", challenger=0.5, champion=0.6, recency=0.7)
    world.run("promote")


def test_the_first_champion_needs_only_to_beat_the_recency_baseline(registered: World) -> None:
    judge(registered, "1", None, challenger=0.69, recency=0.7, lightgbm=0.1)

    report = registered.run("promote")

    assert report.details["champion"] == "1"
    assert aliases(registered) == ("1", None, "1")
    assert decisions(registered) == [("version 1", 1.0, "")]


def test_what_is_worse_than_the_recency_baseline_is_refused(registered: World) -> None:
    # Not by forecasts of drawn weights: on 40 users chance decides how bad those are.
    judge(registered, "1", None, challenger=1.3, recency=0.7)

    with pytest.raises(GateRefused, match=r"is worse than .* of the recency"):
        registered.run("promote")

    assert aliases(registered) == (None, None, "1")
    ((segment, value, message),) = decisions(registered)
    assert (segment, value) == ("version 1", 0.0)
    assert "recency" in message


def test_what_is_worse_than_the_champion_is_refused(registered: World) -> None:
    crown(registered, "1")
    second = register(registered, seed=2)
    judge(registered, second, "1", challenger=0.61, champion=0.6, recency=0.7)

    with pytest.raises(GateRefused, match=r"0\.6100 is worse than 0\.6000 of the champion"):
        registered.run("promote")

    assert aliases(registered) == ("1", None, second)


def test_the_margin_says_how_much_worse_may_still_pass(registered: World) -> None:
    crown(registered, "1")
    second = register(registered, seed=2)
    judge(registered, second, "1", challenger=0.61, champion=0.6, recency=0.7)

    registered.run("promote", recipe=override(RECIPE_OBJECT, {"evaluation.margin": 0.02}))

    assert aliases(registered) == (second, "1", second)


def test_promoting_again_changes_nothing(registered: World) -> None:
    two_champions(registered)
    before = aliases(registered), decisions(registered)

    assert registered.run("promote").already_done

    assert (aliases(registered), decisions(registered)) == before == (("2", "1", "2"), before[1])


@pytest.mark.parametrize("why_not", ["unfair", "obsolete"])
def test_a_champion_that_was_not_compared_is_replaced_only_if_it_cannot_score(
    registered: World, why_not: str
) -> None:
    crown(registered, "1")
    second = register(registered, seed=2)
    judge(registered, second, "1", why_not=why_not, challenger=0.6, recency=0.7)

    if why_not == "obsolete":
        registered.run("promote")
        assert aliases(registered) == (second, "1", second)
        return
    with pytest.raises(GateRefused, match="cannot be compared with the champion"):
        registered.run("promote")


def test_an_evaluation_of_another_pair_does_not_count(registered: World) -> None:
    judge(registered, "1", None, challenger=0.6, recency=0.7)
    register(registered, seed=2)

    with pytest.raises(BadInput, match=r"compares version 1 .*now the challenger is 2.*evaluate"):
        registered.run("promote")


def test_without_an_evaluation_it_says_what_to_do(registered: World) -> None:
    with pytest.raises(BadInput, match=r"evaluations .* not ready.*lumos evaluate"):
        registered.run("promote")


def test_rollback_brings_the_previous_champion_back(registered: World) -> None:
    two_champions(registered)

    report = registered.run("rollback")

    assert report.details == {"champion": "1", "previous_champion": "2"}
    assert aliases(registered) == ("1", "2", None)
    with pytest.raises(BadInput, match="no challenger"):
        registered.run("promote")

    registered.run("rollback")
    assert aliases(registered) == ("2", "1", None)


def test_who_promoted_and_rolled_back_what_and_why_is_in_the_audit(
    registered: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_champions(registered)
    asked = registered.request("rollback", reason="scores of students are off")
    asked = Request.model_validate(
        {**dict(asked), "settings": registered.settings.model_copy(update={"actor": "kim"})}
    )
    monkeypatch.setattr(registry, "_set", _die)
    with pytest.raises(KeyboardInterrupt):
        registry.rollback(asked)

    rows = read(table_uri(registered.settings, RECIPE_OBJECT, "audit"))
    assert rows is not None
    found = rows.sort_by("at").to_pylist()
    assert [(row["actor"].partition(":")[0], row["what"], row["why"]) for row in found] == [
        ("system", "version 1 becomes champion, after None", NO_WORSE),
        ("system", "version 2 becomes champion, after 1", NO_WORSE),
        ("airflow", "version 1 is champion again, after 2", "scores of students are off"),
    ]
    assert found[-1]["actor"] == "airflow:kim"
    assert aliases(registered)[:2] == ("2", "1"), "written before it was done, and nothing was"


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_without_a_previous_champion_there_is_nothing_to_roll_back_to(registered: World) -> None:
    judge(registered, "1", None, challenger=0.6, recency=0.7)
    registered.run("promote")

    with pytest.raises(BadInput, match=r"no previous champion.*after two promotions"):
        registered.run("rollback")

    assert aliases(registered) == ("1", None, "1")


def test_dying_between_two_aliases_leaves_a_champion_and_the_rerun_ends_well(
    registered: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    crown(registered, "1")
    second = register(registered, seed=2)
    judge(registered, second, "1", challenger=0.5, champion=0.6, recency=0.7)
    write, written = registry._set, []

    def dies_after_one(*arguments: object) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(arguments)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(registry, "_set", dies_after_one)
    with pytest.raises(KeyboardInterrupt):
        registered.run("promote")
    assert aliases(registered)[0] == "1"

    monkeypatch.undo()
    registered.run("promote")

    assert aliases(registered) == (second, "1", second)
