"""What a training works on: pinned tables, origins, users, and the scaler fitted on them."""

import datetime as dt
import logging
from dataclasses import dataclass

from lumos import ledger
from lumos.accio.events import EventCalendar
from lumos.accio.loader import Corpus, OriginRange, TrainingWindows, split_users
from lumos.accio.read import read_users, sequence_files
from lumos.config import Recipe
from lumos.dates import day_number, split_origins
from lumos.settings import Settings
from lumos.tables import table_uri
from lumos.train.scaler import Scaler, ScalerFit
from lumos.verbs import BadInput, GateRefused, Request

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origins:
    """Where forecasts may start.

    Attributes:
        first_day: First day whose activity was recorded.
        training: First and last training origin; the first has enough recorded days before.
        evaluation: Origins after the training period, oldest first.
    """

    first_day: dt.date
    training: tuple[dt.date, dt.date]
    evaluation: tuple[dt.date, ...]

    @property
    def range(self) -> OriginRange:
        """The training origins as day numbers."""
        return OriginRange(day_number(self.training[0]), day_number(self.training[1]))


@dataclass(frozen=True)
class Prepared:
    """Everything that is the same in all processes and epochs of a training."""

    windows: TrainingWindows
    origins: Origins
    scaler: Scaler

    @property
    def recipe(self) -> Recipe:
        """The recipe trained."""
        return self.windows.recipe

    @property
    def corpus(self) -> Corpus:
        """The users, split."""
        return self.windows.corpus


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
    last, evaluation = split_origins(
        as_of,
        horizon_days=recipe.horizon_days,
        num_origins=recipe.evaluation.num_origins,
        days_between=recipe.evaluation.days_between_origins,
    )
    first = first_day + dt.timedelta(days=recipe.training.min_history_days - 1)
    if first > last:
        recorded = (as_of - first_day).days + 1
        msg = (
            f"history is too short to train on: {recorded} days are recorded up to {as_of}, and "
            f"{recorded + (first - last).days} are needed: training.min_history_days="
            f"{recipe.training.min_history_days} before the first origin, then two horizons of "
            f"{recipe.horizon_days} days and evaluation.num_origins="
            f"{recipe.evaluation.num_origins}. Aggregate more days (--days), or lower these"
        )
        raise BadInput(msg)
    return Origins(first_day, (first, last), evaluation)


def prepare(request: Request, inputs: dict[str, int | str], origins: Origins) -> Prepared:
    """Split the users and fit the scaler on those in training.

    Raises:
        BadInput: Nobody is left to train on, or nobody is held out.
    """
    settings, recipe = request.settings, request.recipe
    training = recipe.training
    uri = table_uri(settings, recipe, "sequences")
    files = sequence_files(uri, int(inputs["sequences"]))
    corpus = split_users(
        files, origins.range, share=training.held_out_users_share, seed=training.seed
    )
    _check_split(corpus, recipe, origins)
    log.info(
        "%d users to train on, %d held out, %d registered after the last training origin %s",
        corpus.num_training,
        corpus.num_held_out,
        corpus.num_late,
        origins.training[1],
    )
    version = int(inputs["event_context"]) if recipe.events else None
    events = EventCalendar.load(settings, recipe, version)
    fit = ScalerFit(recipe, origins.range.last)
    for file, rows in zip(files, corpus.training, strict=True):
        fit.add(read_users(file, recipe).take(rows))
    scaler = fit.scaler(events, day_number(origins.first_day))
    return Prepared(TrainingWindows(corpus, recipe, events, origins.range), origins, scaler)


def _check_split(corpus: Corpus, recipe: Recipe, origins: Origins) -> None:
    last = origins.training[1]
    total = corpus.num_training + corpus.num_held_out
    given = (
        f"{total + corpus.num_late} users, of whom {corpus.num_late} registered after the last "
        f"training origin {last}, {corpus.num_held_out} are held out and {corpus.num_training} "
        "are left to train on"
    )
    if not corpus.num_training:
        msg = (
            f"there is nobody to train on: {given}. At least one user must be registered by "
            f"{last} and not held out; aggregate more days or lower "
            f"training.held_out_users_share={recipe.training.held_out_users_share}"
        )
        raise BadInput(msg)
    if not corpus.num_held_out:
        msg = (
            f"nobody is held out: {given}. The user split needs at least one; raise "
            f"training.held_out_users_share={recipe.training.held_out_users_share}, choose "
            "another training.seed, or bring more users"
        )
        raise BadInput(msg)
