"""Units out, units back in: how raw columns become what the network takes, and its answers raw.

Fitted on training users and on days up to the last training origin only; kept as JSON beside
the weights, because a network without its scaler means nothing.

* Activity inputs are ``asinh(value / scale)``: linear near zero, logarithmic far out, odd (so
  that refunds are welcome), and zero stays zero: an empty day is still an empty day.
* Targets are ``value / scale``, linear: a head trained by squared error on a transformed value
  would learn the mean of the transform, and undoing it would bias E[value | active].
* Event columns and continuous static columns are centred and divided by their deviation.
* Categories are one-hot, with *missing* and *unseen* as categories of their own. Training hides
  a few known categories as *unseen*, so that its weights are learned.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from lumos.accio.batch import RaggedBatch
from lumos.accio.chance import hash_users, uniform
from lumos.accio.dense import Batch, history_rows
from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.accio.window import Windows, cut
from lumos.config import Config, Recipe, Task
from lumos.dates import from_day_number
from lumos.model.forecaster import ForecasterConfig
from lumos.tasks import task_outcomes
from lumos.verbs import BadInput

_MAX_CATEGORIES = 64
_HIDDEN_SHARE = 0.01
_HIDE = 4  # salt of this stream of chance; accio.chance names the others


class Standard(Config):
    """Mean and deviation of one number; a constant has deviation 1."""

    mean: float
    deviation: float


class HeadScale(Config):
    """What a task's head is trained on: outcomes over ``scale``, from ``average`` on.

    Attributes:
        scale: Mean absolute outcome of an amount; 1 of a chance.
        average: Rate of a chance; mean of ``outcome / scale`` of an amount, or its median.
        loss: What forecasting that average would cost.
    """

    scale: float
    average: float
    loss: float


class Scaler(Config):
    """What was fitted, by column name.

    Attributes:
        scale: Mean absolute value of each activity column where it is not zero; 1 if binary.
        average: Rate of each binary column over a user's days; for a continuous one the mean
            of ``value / scale`` over active days.
        loss: What forecasting that average would cost: entropy, or variance (L_i of eq. 10).
        heads: Of each task that has a head.
        events: Of each calendar and event column.
        categories: The known values of each categorical static column, most frequent first.
        statics: Of each continuous static column.
    """

    scale: Mapping[str, float]
    average: Mapping[str, float]
    loss: Mapping[str, float]
    heads: Mapping[str, HeadScale]
    events: Mapping[str, Standard]
    categories: Mapping[str, tuple[str, ...]]
    statics: Mapping[str, Standard]

    @property
    def num_static(self) -> int:
        """Width of the encoded static features; a platform without any has one zero column."""
        one_hot = sum(len(known) + 2 for known in self.categories.values())
        return max(1, one_hot + 2 * len(self.statics))

    @property
    def num_events(self) -> int:
        """Width of the scaled event context; a platform without any has one zero column."""
        return max(1, len(self.events))

    @property
    def scales(self) -> np.ndarray:
        """Of the activity columns, float32 of shape (U,)."""
        return np.array(list(self.scale.values()), np.float32)

    def first_outputs(self, config: ForecasterConfig) -> torch.Tensor:
        """Outputs that say no more than averages, a term of the loss each, shape (N,)."""
        heads = [self.heads[head.name].average for head in config.heads]
        averages = np.array([*self._of_days(self.average, config), *heads])
        is_chance = [*config.is_binary, *[True] * len(config.hazards)]
        is_chance += [head.is_binary for head in config.heads]
        rates = np.clip(averages, 1e-4, 1 - 1e-4)
        outputs = np.where(is_chance, np.log(rates / (1 - rates)), averages)
        return torch.from_numpy(outputs.astype(np.float32))

    def first_losses(self, config: ForecasterConfig) -> torch.Tensor:
        """What forecasting those averages costs, L_i of eq. 10, shape (N,)."""
        heads = [self.heads[head.name].loss for head in config.heads]
        losses = np.array([*self._of_days(self.loss, config), *heads])
        return torch.from_numpy(losses.astype(np.float32))

    def _of_days(self, by_column: Mapping[str, float], config: ForecasterConfig) -> list[float]:
        return [by_column[name] for name in (*config.columns, *config.hazards)]

    def batch(
        self,
        ragged: RaggedBatch,
        events: EventCalendar,
        recipe: Recipe,
        *,
        last_label: int | None = None,
        hide: tuple[int, int] | None = None,
        device: str = "cpu",
    ) -> Batch:
        """Scale a batch; its days are filled in on the device.

        Args:
            ragged: From the loader.
            events: The calendar; each origin gets what was known on it.
            recipe: Whose columns and tasks these are.
            last_label: Last day whose activity may be a label; every day when ``None``.
            hide: Seed and epoch, in training: some known categories are shown as unseen.
            device: Where the tensors go.
        """
        windows = ragged.windows
        seen_BM = windows.origins - windows.first_day[:, None] + 1
        # Inside a patch an origin would see the days after it.
        assert not (seen_BM % recipe.model.patch_days).any(), "an origin must end a patch"
        context = events.gather(windows.origins, windows.history_days, windows.horizon_days)
        activity, day_row = history_rows(windows)
        scales = torch.from_numpy(self.scales).to(device)
        active = [column.name for column in recipe.activity].index(recipe.active)

        def moved(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(device, non_blocking=True)

        # Days after the window's last origin that no origin's horizon reaches are not there.
        targets = _targets(windows)
        days = windows.origins[..., None] + np.arange(1, windows.horizon_days + 1)
        is_known = np.ones_like(days, bool) if last_label is None else days <= last_label
        is_new = np.diff(windows.origins, axis=1, append=windows.origins[:, -1:] + 1) > 0
        task_targets, is_task_known = self._tasks(targets, is_known, recipe)
        return Batch(
            activity_NU=torch.asinh(moved(activity) / scales),
            day_row_BT=moved(day_row),
            static_BS=moved(self.encode_static(ragged, hide)),
            events_EC=moved(self.scale_events(context.rows)),
            event_index_BL=moved(context.index),
            origin_BM=moved(seen_BM.astype(np.int64) - 1),
            targets_BMFU=moved(targets) / scales,
            is_active_BMF=moved(targets[..., active] > 0),
            is_known_BMF=moved(is_known),
            task_targets_BMK=moved(task_targets),
            is_task_known_BMK=moved(is_task_known),
            weight_BM=moved(ragged.weight[:, None] * is_new.astype(np.float32)),
        )

    def _tasks(
        self, targets_BMFU: np.ndarray, is_known_BMF: np.ndarray, recipe: Recipe
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scaled outcomes of the tasks that have a head, and whether their windows are known."""
        size, num_days = targets_BMFU.shape[:2], targets_BMFU.shape[2]
        tasks = [task for task in recipe.tasks if task.has_head]
        if not tasks or not num_days:
            return np.zeros((*size, len(tasks)), np.float32), np.zeros((*size, len(tasks)), bool)
        flat = targets_BMFU.reshape(-1, *targets_BMFU.shape[2:])
        outcomes = task_outcomes(recipe, flat)
        scaled = [outcomes[task.name].reshape(size) / self.heads[task.name].scale for task in tasks]
        is_known = [is_known_BMF[..., task.window_days - 1] for task in tasks]
        return np.stack(scaled, axis=-1).astype(np.float32), np.stack(is_known, axis=-1)

    def scale_events(self, rows: np.ndarray) -> np.ndarray:
        """Event context as the network takes it, float32 of shape (N, num_events)."""
        if not self.events:
            return np.zeros((len(rows), 1), np.float32)
        mean = np.array([column.mean for column in self.events.values()])
        deviation = np.array([column.deviation for column in self.events.values()])
        return np.asarray((rows - mean) / deviation, np.float32)

    def encode_static(
        self, users: RaggedBatch | Users, hide: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Static features as the network takes them, float32 of shape (N, num_static)."""
        blocks = [np.zeros((len(users), 0), np.float32)]
        hashes = hash_users(users.user_id) if hide else None
        for number, (name, known) in enumerate(self.categories.items()):
            codes = _codes(users.static[name], known)
            if hide and hashes is not None:
                is_hidden = uniform(hashes, _HIDE, number, *hide) < _HIDDEN_SHARE
                codes = np.where(is_hidden & (codes < len(known)), len(known) + 1, codes)
            blocks.append(np.eye(len(known) + 2, dtype=np.float32)[codes])
        for name, fitted in self.statics.items():
            values = users.static[name].to_numpy().astype(np.float64)
            is_missing = ~np.isfinite(values)
            scaled = np.where(is_missing, 0.0, (values - fitted.mean) / fitted.deviation)
            blocks.append(np.stack([scaled, is_missing], axis=1).astype(np.float32))
        encoded = np.concatenate(blocks, axis=1)
        return encoded if encoded.shape[1] else np.zeros((len(users), 1), np.float32)


def _targets(windows: Windows) -> np.ndarray:
    """Raw activity of the horizon days of every origin, (B, M, F, d_u); when serving, none yet."""
    days = windows.target_days
    if not days.size or (windows.offsets < days.min()).all():
        return np.zeros((*days.shape, windows.values.shape[1]), np.float32)
    window = np.arange(len(windows))[:, None, None]
    return np.asarray(windows.dense[window, days])


def _codes(column: pa.ChunkedArray, known: Sequence[str]) -> np.ndarray:
    """Number of each known category; then missing, then unseen."""
    missing, unseen = len(known), len(known) + 1
    number = pc.fill_null(pc.index_in(column, value_set=pa.array(known, column.type)), unseen)
    codes = pc.if_else(pc.is_valid(column), number, missing)
    return np.asarray(codes.to_numpy(), np.int64)


class ScalerFit:
    """Gathers what the scaler needs in one pass over the training users, file by file."""

    def __init__(self, recipe: Recipe, last_day: int, last_label: int) -> None:
        """Count nothing after ``last_day``, the last training origin, but labels.

        Args:
            recipe: Whose columns and tasks these are.
            last_day: The last training origin.
            last_label: Last day whose activity may be a label.
        """
        self._recipe = recipe
        self._last_day = last_day
        self._last_label = last_label
        self._tasks = [task for task in recipe.tasks if task.has_head]
        self._outcomes: dict[str, list[np.ndarray]] = {task.name: [] for task in self._tasks}
        width = len(recipe.activity)
        self._absolute, self._num_nonzero, self._num_positive, self._in_active, self._squares = (
            np.zeros(width) for _ in range(5)
        )
        self._num_active = self._num_days = 0
        kinds = {"categorical": [], "continuous": []}  # type: dict[str, list[str]]
        for column in recipe.static:
            kinds[column.kind].append(column.name)
        self._categories: dict[str, Counter[str]] = {n: Counter() for n in kinds["categorical"]}
        self._moments = {name: np.zeros(3) for name in kinds["continuous"]}

    def add(self, users: Users) -> None:
        """Count some training users.

        Raises:
            BadInput: An activity is no finite number; names it.
        """
        is_past = users.days <= self._last_day
        values = users.values[is_past].astype(np.float64)
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            msg = (
                f"activity column {self._recipe.activity[column].name} of user_id "
                f"{users.user_id[users.owner[is_past][row]]} is {values[row, column]} on "
                f"{from_day_number(users.days[is_past][row])}, expected a finite number; mend "
                "`activity` and run `lumos sequences` again"
            )
            raise BadInput(msg)
        names = [column.name for column in self._recipe.activity]
        is_active = values[:, names.index(self._recipe.active)] > 0
        self._absolute += np.abs(values).sum(axis=0)
        self._num_nonzero += (values != 0).sum(axis=0)
        self._num_positive += (values > 0).sum(axis=0)
        self._in_active += values[is_active].sum(axis=0)
        self._squares += (values[is_active] ** 2).sum(axis=0)
        self._num_active += int(is_active.sum())
        self._num_days += int(np.maximum(self._last_day - users.registered + 1, 0).sum())
        for name, counter in self._categories.items():
            counter.update(value for value in users.static[name].to_pylist() if value is not None)
        for name, moments in self._moments.items():
            x = users.static[name].to_numpy().astype(np.float64)
            x = x[np.isfinite(x)]
            moments += len(x), x.sum(), (x**2).sum()
        for task in self._tasks:
            origin = self._last_label - task.window_days
            present = users.take(users.registered <= origin)
            at = np.full(len(present), origin)
            targets = cut(present, at, 1, self._recipe.horizon_days).targets
            self._outcomes[task.name].append(task_outcomes(self._recipe, targets)[task.name])

    def scaler(self, events: EventCalendar, first_day: int) -> Scaler:
        """Finish: event columns are fitted on ``first_day`` .. the last training origin."""
        columns = self._recipe.activity
        is_binary = np.array([column.kind == "binary" for column in columns])
        mean_absolute = self._absolute / np.maximum(self._num_nonzero, 1)
        scale = np.where(is_binary | (mean_absolute == 0), 1.0, mean_absolute)
        rate = self._num_positive / max(self._num_days, 1)
        given = self._in_active / scale / max(self._num_active, 1)
        average = np.where(is_binary, rate, given)
        variance = self._squares / scale**2 / max(self._num_active, 1) - given**2
        loss = np.where(is_binary, _entropy(rate), np.maximum(variance, 0))
        names = [column.name for column in columns]
        rows = events.window(self._last_day, first_day, self._last_day - first_day + 1)
        event_names = [*self._recipe.calendar, *(c.name for c in self._recipe.events)]
        return Scaler(
            scale=dict(zip(names, scale.tolist(), strict=True)),
            average=dict(zip(names, average.tolist(), strict=True)),
            loss=dict(zip(names, loss.tolist(), strict=True)),
            heads={
                task.name: _head_scale(task, np.concatenate(self._outcomes[task.name]))
                for task in self._tasks
            },
            events={
                name: _standard(len(x), x.sum(), (x**2).sum())
                for name, x in zip(event_names, rows.T.astype(np.float64), strict=True)
            },
            categories={
                name: tuple(_most_frequent(counter.items()))
                for name, counter in self._categories.items()
            },
            statics={name: _standard(*moments) for name, moments in self._moments.items()},
        )


def _head_scale(task: Task, outcomes: np.ndarray) -> HeadScale:
    if not len(outcomes):
        return HeadScale(scale=1.0, average=0.5 if task.is_binary else 0.0, loss=1.0)
    if task.is_binary:
        rate = float(outcomes.mean())
        return HeadScale(scale=1.0, average=rate, loss=float(_entropy(np.array(rate))))
    scale = float(np.abs(outcomes).mean()) or 1.0
    scaled = outcomes / scale
    if task.is_median:
        average = float(np.median(scaled))
        return HeadScale(scale=scale, average=average, loss=float(np.abs(scaled - average).mean()))
    return HeadScale(scale=scale, average=float(scaled.mean()), loss=float(scaled.var()))


def _entropy(rate: np.ndarray) -> np.ndarray:
    """Of a coin that shows 1 with this chance, in nats."""
    inner = np.clip(rate, 1e-6, 1 - 1e-6)
    return np.asarray(-inner * np.log(inner) - (1 - inner) * np.log(1 - inner))


def _most_frequent(counts: Iterable[tuple[str, int]]) -> list[str]:
    ranked = sorted(counts, key=lambda item: (-item[1], item[0]))
    return [value for value, _ in ranked[:_MAX_CATEGORIES]]


def _standard(count: float, total: float, squares: float) -> Standard:
    mean = total / max(count, 1)
    variance = max(squares / max(count, 1) - mean**2, 0.0)
    deviation = float(np.sqrt(variance))
    return Standard(mean=float(mean), deviation=deviation if deviation > 1e-6 else 1.0)
