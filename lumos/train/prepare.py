"""What a training works on: pinned tables, origins, users, and the scaler fitted on them."""

import datetime as dt
import logging
from dataclasses import dataclass

import numpy as np

from lumos import ledger
from lumos.accio.contract import load_events, open_sequences
from lumos.accio.events import EventCalendar
from lumos.accio.loader import Accio
from lumos.accio.split import Split
from lumos.accio.stream import Sampling
from lumos.accio.table import SequenceTable
from lumos.config import Recipe
from lumos.dates import day_number, split_origins
from lumos.settings import Settings
from lumos.train.distributed import World
from lumos.train.scaler import Scaler, ScalerFit
from lumos.verbs import BadInput, GateRefused, Request

log = logging.getLogger(__name__)

# Means and rates need no more to be known to a thousandth.
_FITTED_USERS = 200_000


@dataclass(frozen=True)
class Origins:
    """Where forecasts may start.

    Attributes:
        first_day: First day whose activity was recorded.
        training: First and last training origin; the first has enough recorded days before.
        last_label: Last day whose activity may be a label: the first evaluation origin.
        evaluation: Origins after the training period, oldest first.
    """

    first_day: dt.date
    training: tuple[dt.date, dt.date]
    last_label: dt.date
    evaluation: tuple[dt.date, ...]


@dataclass(frozen=True)
class Prepared:
    """Everything that is the same in all processes and epochs of a training.

    Attributes:
        recipe: The recipe trained.
        table: `sequences` at the pinned version.
        split: Whom to train on.
        loader: This process's batches.
        events: The calendar.
        origins: Where forecasts may start.
        scaler: Fitted on training users.
        num_held_out: Users kept out of training.
        num_late: Users who registered after the last training origin; they have no window.
    """

    recipe: Recipe
    table: SequenceTable
    split: Split
    loader: Accio
    events: EventCalendar
    origins: Origins
    scaler: Scaler
    num_held_out: int
    num_late: int

    @property
    def num_training(self) -> int:
        """Users to train on."""
        return self.loader.num_users


def pinned(request: Request) -> dict[str, int | str]:
    """The table versions that a training of this date reads.

    Raises:
        BadInput: A table is not ready for the date.
        GateRefused: The data-quality suite refused the date.
    """
    settings, recipe, date = request.settings, request.recipe, request.date
    quality = ledger.find(settings, recipe, "quality", date)
    if quality is not None and quality.verdict == ledger.REFUSED:
        msg = f"data quality was refused for {date}; see `lumos validate` and mend the data first"
        raise GateRefused(msg)
    names = ["sequences", "users", *(["event_context"] if recipe.events else [])]
    remedy = f"Run `lumos aggregate` and `lumos sequences` for {date} first."
    found = {name: ledger.require(settings, recipe, name, date, remedy=remedy) for name in names}
    return {name: entry.version for name, entry in found.items()}


def find_origins(settings: Settings, recipe: Recipe, as_of: dt.date) -> Origins:
    """Split the recorded past into training and evaluation origins.

    Raises:
        BadInput: Too few days are recorded for one training and all evaluation origins.
    """
    entries = [
        *ledger.entries(settings, recipe, "activity"),
        *ledger.entries(settings, recipe, "sequences"),
    ]
    first_day = min(entry.first_day for entry in entries if entry.business_date <= as_of)
    _, evaluation = split_origins(
        as_of,
        horizon_days=recipe.horizon_days,
        num_origins=recipe.evaluation.num_origins,
        days_between=recipe.evaluation.days_between_origins,
    )
    last_label = evaluation[0]
    last = last_label - dt.timedelta(days=_label_days(recipe))
    first = first_day + dt.timedelta(days=recipe.training.min_history_days - 1)
    if first > last:
        recorded = (as_of - first_day).days + 1
        msg = (
            f"history is too short to train on: {recorded} days are recorded up to {as_of}, and "
            f"{recorded + (first - last).days} are needed: training.min_history_days="
            f"{recipe.training.min_history_days} before the first origin, then labels of "
            f"{_label_days(recipe)} days, a horizon of {recipe.horizon_days} days and "
            f"evaluation.num_origins={recipe.evaluation.num_origins}. "
            "Aggregate more days (--days), or lower these"
        )
        raise BadInput(msg)
    return Origins(first_day, (first, last), last_label, evaluation)


def _label_days(recipe: Recipe) -> int:
    """Days after an origin that must have labels: a horizon, or the shortest task with a head.

    With heads, an origin late in the period teaches what has matured of it; the rest of its
    horizon counts for nothing.
    """
    windows = [task.window_days for task in recipe.tasks if task.has_head]
    return min(windows, default=recipe.horizon_days)


def prepare(
    request: Request, inputs: dict[str, int | str], origins: Origins, world: World
) -> Prepared:
    """Split the users, open the loader, and fit the scaler on users in training.

    Raises:
        BadInput: Nobody is left to train on, or nobody is held out.
    """
    settings, recipe, training = request.settings, request.recipe, request.recipe.training
    first, last = (day_number(day) for day in origins.training)
    table = open_sequences(settings, recipe, int(inputs["sequences"]))
    split = Split(training.held_out_users_share, training.seed, last)
    counts = table.map_index(
        lambda users: (split.is_out(users).sum(), (users.registered > last).sum())
    )
    num_held_out, num_late = (int(count) for count in np.sum(counts, axis=0)) if counts else (0, 0)
    _check_split(recipe, origins, table.num_users, num_held_out, num_late)
    loader = Accio(
        table,
        Sampling(
            recipe.history_days,
            recipe.horizon_days,
            first,
            last,
            origins_per_window=training.origins_per_window,
            days_between_origins=recipe.model.patch_days,
            min_history_days=training.min_history_days,
        ),
        batch_size=training.batch_size,
        seed=training.seed,
        keep=split,
        num_workers=training.loader_workers,
        rank=world.rank,
        world_size=world.size,
    )
    log.info(
        "%d users to train on, %d held out, %d registered after the last training origin %s",
        loader.num_users,
        num_held_out,
        num_late,
        origins.training[1],
    )
    version = int(inputs["event_context"]) if recipe.events else None
    events = load_events(settings, recipe, version)
    fit = ScalerFit(recipe, last, day_number(origins.last_label))
    # Every n-th row group: buckets are hashes, so these users are as good as any.
    for shard in range(0, len(table.shards), max(1, table.num_users // _FITTED_USERS)):
        users = table.read(shard)
        fit.add(users.take((users.registered <= last) & split(users)))
    scaler = fit.scaler(events, day_number(origins.first_day))
    return Prepared(recipe, table, split, loader, events, origins, scaler, num_held_out, num_late)


def _check_split(
    recipe: Recipe, origins: Origins, num_users: int, num_held_out: int, num_late: int
) -> None:
    last = origins.training[1]
    num_training = num_users - num_held_out - num_late
    given = (
        f"{num_users} users, of whom {num_late} registered after the last "
        f"training origin {last}, {num_held_out} are held out and {num_training} "
        "are left to train on"
    )
    if not num_training:
        msg = (
            f"there is nobody to train on: {given}. At least one user must be registered by "
            f"{last} and not held out; aggregate more days or lower "
            f"training.held_out_users_share={recipe.training.held_out_users_share}"
        )
        raise BadInput(msg)
    if not num_held_out:
        msg = (
            f"nobody is held out: {given}. The user split needs at least one; raise "
            f"training.held_out_users_share={recipe.training.held_out_users_share}, choose "
            "another training.seed, or bring more users"
        )
        raise BadInput(msg)
