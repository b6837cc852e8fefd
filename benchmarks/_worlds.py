"""Worlds that several benchmarks read: written once, kept under ``$LUMOS_HOME/bench``."""

import os
from collections.abc import Sequence

from lumos.accio.contract import open_sequences
from lumos.accio.stream import Sampling
from lumos.accio.table import SequenceTable
from lumos.config import Recipe
from lumos.datasets.fantasy_sports import World, recipe
from lumos.datasets.fantasy_sports.write import write_tables
from lumos.overrides import override
from lumos.settings import Settings

USERS_A_BUCKET = 16_384
# The published windows (SPEC: data); our own form has whole weeks.
HISTORY_DAYS, HORIZON_DAYS = 360, 7


def write(num_users: int, names: Sequence[str] = ("sequences",)) -> tuple[Settings, Recipe]:
    """Write tables of a world of four years, unless that was done; returns where they lie."""
    at = Settings.from_environment()
    home = at.home / "bench" / f"world-{num_users}"
    settings = Settings.from_environment({"LUMOS_HOME": str(home)})
    shaped = override(recipe(), {"num_buckets": max(1, num_users // USERS_A_BUCKET)})
    write_tables(
        settings,
        shaped,
        World(num_users),
        scratch=home / "scratch",
        names=names,
        processes=len(os.sched_getaffinity(0)),
    )
    return settings, shaped


def sequences(num_users: int) -> SequenceTable:
    """`sequences` of such a world, opened."""
    settings, shaped = write(num_users)
    return open_sequences(settings, shaped, None)


def sampling() -> Sampling:
    """Windows of the recipe at every origin with a whole history and a whole horizon."""
    world = World(1)
    last = world.first + world.num_days - 1
    spans = HISTORY_DAYS, HORIZON_DAYS
    return Sampling(*spans, world.first + spans[0] - 1, last - spans[1])
