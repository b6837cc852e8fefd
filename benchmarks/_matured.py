"""What a forecaster said at many origins and what came true, on two platforms, for calibration."""

import datetime as dt
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import accuracy, calendar
from benchmarks._trained import trained_forecaster
from lumos.accio.contract import load_events
from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.accio.window import cut
from lumos.config import Recipe, Task
from lumos.datasets.fantasy_sports import World
from lumos.datasets.fantasy_sports import recipe as fantasy_sports
from lumos.dates import day_number
from lumos.overrides import override
from lumos.progress import progress
from lumos.serve.features import History
from lumos.tasks import task_scores
from lumos.train.checkpoint import Checkpoint
from lumos.train.predict import forecast

NUM_DAYS = 7  # of which each is asked apart
WEEKS_FITTED, WEEKS_JUDGED = 4, 8
_BATCH_SIZE = 256


@dataclass(frozen=True)
class Matured:
    """Users at weekly origins.

    Attributes:
        tasks: The recipe's, then whether a user is active on day 1, 2, ...
        user: Whose each row is, shape (N,).
        origin: Day number, shape (N,).
        forecasts: By task name, shape (N,).
        outcomes: By task name, shape (N,).
        first_judged: The first origin that is judged.
        last_day: The last recorded one.
        horizon_days: Of the forecaster, the longest window there may be.
    """

    tasks: tuple[Task, ...]
    user: np.ndarray
    origin: np.ndarray
    forecasts: Mapping[str, np.ndarray]
    outcomes: Mapping[str, np.ndarray]
    first_judged: int
    last_day: int
    horizon_days: int

    def evaluated_by(self, day: int) -> np.ndarray:
        """Rows that `lumos evaluate` would have: the last origins whose horizon had ended."""
        is_whole = self.origin + self.horizon_days <= day
        return is_whole & np.isin(self.origin, np.unique(self.origin[is_whole])[-WEEKS_FITTED:])

    def fitted_on(self, task: Task, by: int | None = None) -> np.ndarray:
        """Rows whose window had ended by a day: by default, when the first one judged was made."""
        return self.origin + task.window_days <= (self.first_judged if by is None else by)

    def judged_on(self, task: Task) -> np.ndarray:
        """Rows of later origins, of those windows that were recorded to their end."""
        return (self.origin >= self.first_judged) & (
            self.origin + task.window_days <= self.last_day
        )


def complete_journey(seed: int = 0) -> Matured:
    """October's origins to fit on, those of November and December to judge, as in accuracy."""
    given = accuracy.data()
    return _asked(
        trained_forecaster(given, seed),
        given.users,
        given.events,
        [*accuracy.VALIDATION, *accuracy.TEST],
        first_judged=accuracy.TEST[0],
        last_day=accuracy.AS_OF,
    )


def made_up(num_users: int, epochs: int) -> Matured:
    """A fantasy-sports platform of four years, twelve weekly origins after the training."""
    world = World(num_users)
    weeks = WEEKS_FITTED + WEEKS_JUDGED
    changes = {"num_buckets": 4, "training.epochs": epochs, "evaluation.num_origins": weeks}
    shaped = override(fantasy_sports(), changes)
    with tempfile.TemporaryDirectory(prefix="lumos-benchmark-") as name:
        settings = calendar.written(Path(name), world, shaped)
        checkpoint = calendar.trained(settings, shaped, world, Path(name) / "state", threads=1)
        origins = [
            dt.date.fromordinal(dt.date(1970, 1, 1).toordinal() + day)
            for day in calendar.judged_origins(shaped, world, settings)
        ]
        return _asked(
            checkpoint,
            calendar.some_users(settings, shaped, num_users),
            load_events(settings, shaped, None),
            origins,
            first_judged=origins[WEEKS_FITTED],
            last_day=world.last_day,
        )


def _asked(
    checkpoint: Checkpoint,
    users: Users,
    events: EventCalendar,
    origins: Sequence[dt.date],
    *,
    first_judged: dt.date,
    last_day: dt.date,
) -> Matured:
    recipe = checkpoint.recipe
    examples = History(users, recipe).examples([day_number(o) for o in origins], events)
    parts: list[dict[str, np.ndarray]] = []
    with progress("forecasting", len(origins)) as advance:
        for origin in origins:
            parts.append(_at(checkpoint, users, events, examples.user, examples.origin, origin))
            advance()
    active = recipe.active
    days = tuple(
        Task(name=f"day_{k}", kind="any", column=active, window_days=k)
        for k in range(1, NUM_DAYS + 1)
    )
    came = _came(recipe, users.take(examples.user), examples.origin)
    return Matured(
        tasks=(*recipe.tasks, *days),
        user=examples.user,
        origin=examples.origin,
        forecasts={name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        outcomes={**examples.outcomes, **{f"day_{k + 1}": came[:, k] for k in range(NUM_DAYS)}},
        first_judged=day_number(first_judged),
        last_day=day_number(last_day),
        horizon_days=recipe.horizon_days,
    )


def _at(
    checkpoint: Checkpoint,
    users: Users,
    events: EventCalendar,
    user_N: np.ndarray,
    origin_N: np.ndarray,
    origin: dt.date,
) -> dict[str, np.ndarray]:
    """Answers to all tasks of one origin's rows."""
    rows = user_N[origin_N == day_number(origin)]
    at = np.full(len(rows), day_number(origin), np.int32)
    made = forecast(checkpoint, users.take(rows), at, events, batch_size=_BATCH_SIZE)
    column = checkpoint.recipe.binary.index(checkpoint.recipe.active)
    days = {f"day_{k + 1}": made.p[:, k, column].astype(np.float64) for k in range(NUM_DAYS)}
    return {**task_scores(checkpoint.recipe, made), **days}


def _came(recipe: Recipe, users: Users, origin_N: np.ndarray) -> np.ndarray:
    """Whether each row's user was active on each of the next days, shape (N, NUM_DAYS)."""
    column = [c.name for c in recipe.activity].index(recipe.active)
    targets = cut(users, origin_N, 0, recipe.horizon_days).targets
    return np.asarray(targets[:, :NUM_DAYS, column] > 0, np.float64)
