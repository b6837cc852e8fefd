"""Scoring: every active user once, by one model, whoever kills it and however often it runs."""

import datetime as dt
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lumos.dates import day_number
from lumos.delta import open_table, read
from lumos.overrides import override
from lumos.recipes import load
from lumos.serve.shards import pieces
from lumos.tables import table_uri
from lumos.verbs import BadInput
from tests.conftest import RECIPE, World
from tests.serve.lake import DATES, Member, contents, enter, members, write_sequences
from tests.serve.models import crown, register

COMMITTED = "committed"
# Many, so that a kill at the sight of an early commit never comes after the last one.
NUM_SHARDS = 12


def forecasts(world: World) -> list[str]:
    """All rows of `forecasts`."""
    return contents(world, "forecasts")


def delta_version(world: World, name: str) -> int:
    """Newest version of a table."""
    table = open_table(table_uri(world.settings, load(world.recipe_name), name))
    assert table is not None
    return table.version()


def kill_when_shard_is_committed(world: World, number: int) -> None:
    """Run `python -m lumos score` and SIGKILL it at the first word of its ``number``th commit."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "lumos", "score", "--date", str(world.date)),
            *("--set", f"scoring.num_shards={NUM_SHARDS}"),
        ],
        env=world.environment,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stderr is not None
    seen = 0
    for line in process.stderr:
        seen += COMMITTED in line
        if seen == number:
            process.kill()
            break
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


def test_killing_it_after_a_shard_and_running_again_gives_the_same_rows(
    crowned: World, tmp_path: Path
) -> None:
    recipe = override(load(RECIPE), {"scoring.num_shards": NUM_SHARDS})
    whole = crowned.copy(tmp_path / "whole")
    for verb in ("score", "publish"):
        whole.run(verb, recipe=recipe)

    kill_when_shard_is_committed(crowned, 2)
    half_done = forecasts(crowned)
    for verb in ("score", "publish"):
        crowned.run(verb, recipe=recipe)

    assert 0 < len(half_done) < len(forecasts(whole))
    assert forecasts(crowned) == forecasts(whole)
    # One commit made the table; a shard that was done is not done again.
    assert delta_version(crowned, "forecasts") == NUM_SHARDS
    assert contents(crowned, "scores") == contents(whole, "scores")
    (mine,), (other,) = (contents(w, "manifests", without=("created",)) for w in (crowned, whole))
    assert mine == other


def test_running_again_writes_nothing(scored: World) -> None:
    before = forecasts(scored), delta_version(scored, "forecasts"), delta_version(scored, "ledger")

    report = scored.run("score")

    assert report.already_done
    assert report.tables[0].rows == len(before[0])
    assert before == (
        forecasts(scored),
        delta_version(scored, "forecasts"),
        delta_version(scored, "ledger"),
    )


def test_forcing_it_gives_the_same_rows(scored: World) -> None:
    before, version = forecasts(scored), delta_version(scored, "forecasts")

    scored.run("score", force=True)

    assert forecasts(scored) == before
    assert delta_version(scored, "forecasts") > version


def test_every_active_user_has_every_day_of_the_horizon_once(scored: World) -> None:
    recipe = load(RECIPE)
    last = day_number(scored.date)
    within = recipe.scoring.active_within_days
    active = {m.user_id for m in members() if any(last - within < day <= last for day in m.days)}
    rows = read(table_uri(scored.settings, recipe, "forecasts"))
    assert rows is not None

    keys = {(row["user_id"], row["horizon_day"]) for row in rows.to_pylist()}

    horizon = [scored.date + dt.timedelta(days=n + 1) for n in range(recipe.horizon_days)]
    assert keys == {(user, day) for user in active for day in horizon}
    assert len(keys) == rows.num_rows
    assert set(rows["model_version"].to_pylist()) == {"1"}


def test_users_who_were_long_away_are_not_scored(crowned: World) -> None:
    recipe = override(load(RECIPE), {"scoring.active_within_days": 3})
    last = day_number(crowned.date)

    report = crowned.run("score", recipe=recipe)

    recent = [m for m in members() if any(last - 3 < day <= last for day in m.days)]
    assert report.metrics["num_users"] == len(recent) < len(members())


def test_a_user_unseen_in_training_is_scored(crowned: World) -> None:
    newcomer = Member(
        user_id="nobody knew me",
        registered=day_number(crowned.date),
        plan="a plan that training never saw",
        age=None,
        days={day_number(crowned.date): [1.0, 0.0, 45.0, 0.0]},
    )
    write_sequences(crowned, crowned.date, [*members(), newcomer])

    crowned.run("score")

    rows = read(table_uri(crowned.settings, load(RECIPE), "forecasts"))
    assert rows is not None
    theirs = [row for row in rows.to_pylist() if row["user_id"] == newcomer.user_id]
    assert len(theirs) == load(RECIPE).horizon_days
    assert all(0 < row["p_visited"] < 1 and row["mean_minutes"] >= 0 for row in theirs)


def test_another_model_replaces_every_shard_even_after_a_kill(crowned: World) -> None:
    recipe = override(load(RECIPE), {"scoring.num_shards": NUM_SHARDS})
    kill_when_shard_is_committed(crowned, 1)
    crown(crowned, register(crowned, seed=2))

    report = crowned.run("score", recipe=recipe)

    rows = read(table_uri(crowned.settings, load(RECIPE), "forecasts"))
    assert rows is not None
    assert set(rows["model_version"].to_pylist()) == {"2"} == {report.details["model_version"]}


def test_going_back_to_the_first_model_takes_none_of_the_others_shards(scored: World) -> None:
    before = forecasts(scored)
    second = register(scored, seed=2)
    scored.run("score", model=second)
    assert forecasts(scored) != before

    scored.run("score", model="1")

    assert forecasts(scored) == before


def test_fewer_shards_leave_no_row_of_the_old_ones(scored: World) -> None:
    def shards() -> list[int]:
        rows = read(table_uri(scored.settings, load(RECIPE), "forecasts"))
        assert rows is not None
        return sorted(rows["shard"].to_pylist())

    before = shards()
    assert set(before) == {0, 1, 2}

    scored.run("score", recipe=override(load(RECIPE), {"scoring.num_shards": 1}))

    assert shards() == [0] * len(before)

    scored.run("score")

    assert shards() == before


def test_the_next_day_leaves_this_day_alone(scored: World) -> None:
    before = set(forecasts(scored))

    scored.run("score", date=DATES[1])

    after = set(forecasts(scored))
    assert before < after


def test_without_a_champion_it_says_what_to_do(registered: World) -> None:
    with pytest.raises(BadInput, match=r"no champion yet.*lumos promote"):
        registered.run("score")


def test_a_version_that_does_not_exist_is_refused_with_the_choices(crowned: World) -> None:
    with pytest.raises(BadInput, match=r"99.*has 1"):
        crowned.run("score", model="99")


def test_a_day_that_quality_refused_is_not_scored(crowned: World) -> None:
    enter(crowned, "validate", "quality", crowned.date, verdict="refused")

    with pytest.raises(BadInput, match="quality of recipe gym was refused"):
        crowned.run("score")


def test_a_checkpoint_for_other_columns_is_refused(crowned: World) -> None:
    fields = load(RECIPE).model_dump()
    fields["calendar"] = ("monday",)
    changed = type(load(RECIPE)).model_validate(fields)

    with pytest.raises(BadInput, match="other calendar than the recipe now has"):
        crowned.run("score", recipe=changed)


def test_a_model_from_the_future_is_refused(crowned: World) -> None:
    future = register(crowned, seed=3, as_of=str(DATES[1]))

    with pytest.raises(BadInput, match="it would forecast days that it has seen"):
        crowned.run("score", model=future)


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("sizes", [[5], [3, 0, 9], [1, 1, 1, 1], []])
def test_every_row_is_in_exactly_one_shard(num_shards: int, sizes: list[int]) -> None:
    shards = pieces(sizes, num_shards)

    rows = [(p.row_group, row) for shard in shards for p in shard for row in range(p.start, p.stop)]
    assert rows == [(group, row) for group, size in enumerate(sizes) for row in range(size)]
    assert len(shards) == num_shards
    counts = [sum(p.stop - p.start for p in shard) for shard in shards]
    assert max(counts) - min(counts) <= 1


def test_an_empty_shard_is_committed_and_remembered(crowned: World) -> None:
    recipe = override(load(RECIPE), {"scoring.num_shards": 40, "scoring.active_within_days": 1})

    first = crowned.run("score", recipe=recipe)

    assert crowned.run("score", recipe=recipe).already_done
    assert first.metrics["num_users"] == sum(
        np.isin(day_number(crowned.date), list(m.days)) for m in members()
    )
