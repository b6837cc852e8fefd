"""Scoring shared by processes under the real torchrun: whoever dies, the rows are the same."""

import json
import re

import pytest

from lumos.overrides import override
from lumos.recipes import load
from lumos.serve.shards import count_shards, in_few, of_rank
from tests.conftest import RECIPE, World
from tests.serve.lake import contents
from tests.serve.models import crown, register
from tests.serve.scoring import COMMITTED, Torchrun

NUM_SHARDS = 12
CHANGES = {"scoring.num_shards": NUM_SHARDS, "scoring.processes": 2}
ASSIGNMENTS = [f"{key}={value}" for key, value in CHANGES.items()]


@pytest.fixture(scope="module")
def undisturbed(_crowned: World, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Rows that one process writes whom nobody disturbs."""
    world = _crowned.copy(tmp_path_factory.mktemp("ranks") / "home")
    world.run("score", recipe=override(load(RECIPE), CHANGES))
    return contents(world, "forecasts")


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("num_shards", [1, 3, 8, 20])
def test_every_shard_has_exactly_one_rank(num_ranks: int, num_shards: int) -> None:
    dealt = [of_rank(num_shards, rank, num_ranks) for rank in range(num_ranks)]

    assert sorted(shard for mine in dealt for shard in mine) == list(range(num_shards))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_a_large_table_gets_more_shards_than_the_recipe_asks_for() -> None:
    scoring = override(load(RECIPE), {"scoring.users_per_shard": 1_000}).scoring

    assert count_shards(240, scoring) == scoring.num_shards
    assert count_shards(50_000_000, scoring) == 50_000
    assert count_shards(50_000_001, scoring) == 50_001


def test_a_report_never_has_more_than_so_many_numbers_and_loses_no_row() -> None:
    for number in (0, 1, 49, 50, 51, 1_526):
        counts = list(range(number))
        few = in_few(counts, 50)
        assert len(few) <= 50
        assert sum(few) == sum(counts)
    assert in_few([3, 4], 50) == [3, 4]


def test_two_processes_write_the_rows_of_one_and_report_once(
    crowned: World, undisturbed: list[str]
) -> None:
    """Though somebody crowns another version while they are at work: it was resolved once."""
    other = register(crowned, seed=2)
    run = Torchrun(crowned, ASSIGNMENTS)
    run.wait_for(COMMITTED)
    crown(crowned, other)

    code, stdout, _ = run.end()

    assert code == 0
    assert contents(crowned, "forecasts") == undisturbed
    (line,) = stdout.splitlines()
    details = json.loads(line)["details"]
    assert details["num_shards"] == len(details["shards"]) == NUM_SHARDS
    assert sum(details["shards"]) == len(undisturbed)
    assert (details["processes"], details["num_shards_done_before"]) == (2, 0)


@pytest.mark.parametrize("whom", ["second", "torchrun"])
def test_whoever_is_killed_with_9_a_rerun_gives_the_undisturbed_rows(
    whom: str, crowned: World, undisturbed: list[str]
) -> None:
    run = Torchrun(crowned, ASSIGNMENTS)
    run.wait_for(COMMITTED, times=2)
    victim = run.ranks()[1] if whom == "second" else run.process.pid

    code, stdout, _ = run.end(victim)

    assert code != 0, "it ended before it could be killed"
    assert not stdout
    half_done = contents(crowned, "forecasts")
    assert 0 < len(half_done) < len(undisturbed)

    report = crowned.run("score", recipe=override(load(RECIPE), CHANGES))

    assert contents(crowned, "forecasts") == undisturbed
    assert report.details["num_shards_done_before"] >= 2


def test_what_is_wrong_is_said_by_one_process_alone(registered: World) -> None:
    code, stdout, stderr = Torchrun(registered, ASSIGNMENTS).end()

    assert code == 1
    assert re.search(r"failed \(exitcode: 2\)", stderr)
    assert not stdout
    assert stderr.count("has no champion yet") == 1
