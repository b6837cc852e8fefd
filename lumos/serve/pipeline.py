"""The five stages of scoring as functions: fetch, scale, infer, post-process, and how they overlap.

    fetch          a row group of `sequences`, decoded; users that get a score
    scale          their windows, cut and scaled: dense batches
    infer          the network, a batch a core
    post-process   rows of `forecasts`, a shard at a time
    store          is the caller's

Each item is small (a row group, a batch, at most one shard's rows), and few of them wait between
stages: memory depends neither on the table nor on its number of shards.
"""

import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from lumos.accio.dense import Batch
from lumos.accio.events import EventCalendar
from lumos.accio.table import SequenceTable
from lumos.accio.users import Users
from lumos.config import Recipe
from lumos.dates import day_number
from lumos.serve.inputs import is_active
from lumos.serve.network import Network, num_workers
from lumos.serve.overlap import Overlap
from lumos.serve.shards import Piece
from lumos.tables import tables
from lumos.tasks import DayForecasts
from lumos.train.predict import joined, prepared
from lumos.verbs import BadInput

_ROW_GROUPS_AHEAD, _CHUNKS_AHEAD = 2, 2
_USERS_SCALED = 1024  # at a time


@dataclass(frozen=True)
class Pass:
    """What one pass over the users is made from.

    Attributes:
        recipe: Names the columns, and says who gets a score.
        date: The last day observed, every user's origin.
        table: `sequences` at a pinned version.
        events: The calendar that forecasts are made under.
        network: The forecaster.
        model_version: For the rows.
        num_cores: How many the pass may use.
    """

    recipe: Recipe
    date: dt.date
    table: SequenceTable
    events: EventCalendar
    network: Network
    model_version: str
    num_cores: int = 1


@dataclass(frozen=True)
class Shard:
    """Some users' forecasts, in the table's order; ``days`` is ``None`` where there is nobody."""

    number: int
    user_id: np.ndarray
    days: DayForecasts | None

    def __len__(self) -> int:
        return len(self.user_id)


def forecasts(
    whole: Pass, shards: Iterable[tuple[int, Sequence[Piece]]], overlap: Overlap
) -> Iterator[Shard]:
    """Forecast the active users of these shards, one shard after another.

    Args:
        whole: What the pass is made from.
        shards: Number and pieces of each, ascending.
        overlap: Lends the threads.
    """
    numbers, dealt = itertools.tee(shards)
    wanted = ((number, piece) for number, shard in dealt for piece in shard)
    workers = num_workers(whole.network, whole.recipe.scoring, whole.num_cores)

    def fetched(place: tuple[int, Piece]) -> tuple[int, Users]:
        return place[0], fetch(whole, place[1])

    def scaled(chunk: tuple[int, Users]) -> tuple[int, np.ndarray, Batch]:
        return chunk[0], chunk[1].user_id, scale(whole, chunk[1])

    def inferred(ready: tuple[int, np.ndarray, Batch, slice]) -> Shard:
        number, user_id, batch, mine = ready
        answer = whole.network.answer(batch.part(mine.start, mine.stop))
        return Shard(number, user_id[mine], answer)

    size = whole.recipe.scoring.batch_size
    users = overlap.map(fetched, wanted, ahead=_ROW_GROUPS_AHEAD)
    chunks = _in_chunks(users, max(size, _USERS_SCALED))
    dense = overlap.map(scaled, chunks, ahead=_CHUNKS_AHEAD)
    batches = _in_batches(dense, size)
    said = overlap.map(inferred, batches, ahead=2 * workers, workers=workers)
    yield from _by_shard((number for number, _ in numbers), said)


class Threads:
    """Gives each of several networks that compute at once one thread, and puts it back."""

    def __init__(self, whole: Pass) -> None:
        workers = num_workers(whole.network, whole.recipe.scoring, whole.num_cores)
        self._inside = max(1, whole.num_cores // workers)
        self._before = torch.get_num_threads()

    def __enter__(self) -> None:
        torch.set_num_threads(self._inside)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)


def fetch(whole: Pass, piece: Piece) -> Users:
    """The users of a piece that get a score."""
    users = whole.table.read(piece.row_group)
    is_ours = np.zeros(len(users), bool)
    is_ours[piece.start : piece.stop] = True
    within = whole.recipe.scoring.active_within_days
    return users.take(is_ours & is_active(users, whole.date, within))


def scale(whole: Pass, users: Users) -> Batch:
    """Their windows up to the date, as the network takes them."""
    origins = np.full(len(users), day_number(whole.date), np.int32)
    return prepared(whole.network.checkpoint, users, origins, whole.events, whole.network.device)


def _in_chunks(fetched: Iterable[tuple[int, Users]], size: int) -> Iterator[tuple[int, Users]]:
    """Row groups of other writers may be large; a chunk never spans two."""
    for number, users in fetched:
        for start in range(0, len(users), size):
            yield number, users.part(start, min(start + size, len(users)))


def _in_batches(
    scaled: Iterable[tuple[int, np.ndarray, Batch]], size: int
) -> Iterator[tuple[int, np.ndarray, Batch, slice]]:
    """What the network computes at a time; scaling many users at once costs less."""
    for number, user_id, batch in scaled:
        for start in range(0, len(user_id), size):
            yield number, user_id, batch, slice(start, min(start + size, len(user_id)))


def _by_shard(numbers: Iterable[int], parts: Iterable[Shard]) -> Iterator[Shard]:
    """Join the parts of each shard; one without active users has none."""
    groups = itertools.groupby(parts, key=lambda part: part.number)
    number, found = next(groups, (-1, iter(())))
    for wanted in numbers:
        if number != wanted:
            yield Shard(wanted, np.zeros(0, object), None)
            continue
        mine = list(found)
        days = joined([part.days for part in mine if part.days is not None])
        yield Shard(wanted, np.concatenate([part.user_id for part in mine]), days)
        del mine, days
        number, found = next(groups, (-1, iter(())))


def check_finite(recipe: Recipe, shard: Shard) -> None:
    """Refuse a forecast that is no number.

    Raises:
        BadInput: Says of how many users, names one, and the likely causes.
    """
    if shard.days is None:
        return
    cells = [shard.days.p, shard.days.given, shard.days.mean, *shard.days.heads.values()]
    is_wrong = np.zeros(len(shard), bool)
    for values in cells:
        is_wrong |= ~np.isfinite(values.reshape(len(shard), -1)).all(axis=1)
    if not is_wrong.any():
        return
    first = shard.user_id[np.flatnonzero(is_wrong)[0]]
    msg = (
        f"forecasts of {int(is_wrong.sum())} of the {len(shard)} users of shard {shard.number} of "
        f"recipe {recipe.name}, user_id {first} among them, are no finite numbers; the shard was "
        "not stored. Where it is all users, the model's weights are broken: name another version "
        "with --model; where it is some, look for infinite or missing values in their `activity`, "
        "mend them and run `lumos sequences --force`"
    )
    raise BadInput(msg)


def rows(recipe: Recipe, date: dt.date, model_version: str, shard: Shard) -> pa.Table:
    """Rows of `forecasts`: a user's horizon days in order, users in the file's order."""
    schema = tables(recipe)["forecasts"].arrow_schema(recipe)
    if shard.days is None:
        return schema.empty_table()
    days, horizon = shard.days, recipe.horizon_days
    first = day_number(date) + 1
    num_rows = len(shard) * horizon
    user = np.repeat(np.arange(len(shard), dtype=np.int32), horizon)
    columns = {
        "as_of": np.full(num_rows, first - 1, np.int32),
        "shard": np.full(num_rows, shard.number, np.int32),
        # Each id is turned into text once, not once a day.
        "user_id": pa.array(shard.user_id, pa.string()).take(pa.array(user)),
        "horizon_day": np.tile(np.arange(first, first + horizon, dtype=np.int32), len(shard)),
        "model_version": pa.repeat(pa.scalar(model_version), num_rows),
        **dict(_columns("p", recipe.binary, days.p)),
        **dict(_columns("given", recipe.continuous, days.given)),
        **dict(_columns("mean", recipe.continuous, days.mean)),
        **{
            f"task_{task.name}": np.repeat(days.heads[task.name], horizon)
            for task in recipe.tasks
            if task.has_head
        },
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def _columns(
    prefix: str, names: tuple[str, ...], cells: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    for index, name in enumerate(names):
        yield f"{prefix}_{name}", cells[:, :, index].ravel()
