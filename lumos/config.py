"""What a recipe may say: one frozen, checked object describes a platform and its forecaster.

A recipe names the raw tables, the three SELECTs that map them to the contract tables, the
activity, event and static columns, the windows, the tasks, and how to train, score and publish.
Nothing below this module knows a dataset by name.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, model_validator

from lumos.calendar import CALENDAR_COLUMNS, has_holidays
from lumos.forms import EmbeddingConfig, LossConfig, ModelConfig, TrainingConfig
from lumos.frozen import Config, explain
from lumos.operating import CalibrationConfig, QualityConfig, RetentionConfig
from lumos.sql_types import SqlType
from lumos.stores import DynamoDbStore, ParquetStore, RedisStore, StoreConfig

# A recipe is written with imports from this module alone.
__all__ = [
    "RESERVED_COLUMNS", "ActivityColumn", "CalibrationConfig", "Config", "DynamoDbStore",
    "EmbeddingConfig", "EvaluationConfig", "EventColumn", "LossConfig", "ModelConfig",
    "ParquetStore", "PublishingConfig", "QualityConfig", "RawTable", "Recipe", "RedisStore",
    "ScoringConfig", "SqlType", "StaticColumn", "StoreConfig", "Task", "TrainingConfig",
    "explain",
]  # fmt: skip


def _identifier(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        msg = (
            f"{name!r} is not a name: lower-case letters, digits and underscores, "
            "starting with a letter, at most 63 characters"
        )
        raise ValueError(msg)
    return name


# Columns that the contract tables have beside a recipe's own (see lumos.tables).
RESERVED_COLUMNS = frozenset(
    {
        "as_of", "bucket", "calibrator_version", "day", "days", "horizon_day", "is_held_out",
        "known_on", "model_version", "num_raw_rows", "origin", "registered_on", "shard",
        "user_id", "valid_from",
    }
)  # fmt: skip

# Names become table, column and folder names, hence this narrow alphabet.
Name = Annotated[str, AfterValidator(_identifier)]


class ActivityColumn(Config):
    """One thing a user does in a day.

    ``binary`` columns hold 0 or 1; ``continuous`` ones a quantity in ``unit``, zero on a day
    without activity. ``minimum`` is the smallest value that is not an error.
    """

    name: Name
    kind: Literal["binary", "continuous"]
    unit: str
    description: str = ""
    minimum: float | None = 0.0


class EventColumn(Config):
    """One number about a day, the same for all users and known ahead of it."""

    name: Name
    unit: str
    description: str = ""


class StaticColumn(Config):
    """One attribute of a user. A missing category is a category of its own, not a guess."""

    name: Name
    kind: Literal["categorical", "continuous"]
    unit: str = ""
    description: str = ""


class RawTable(Config):
    """A table as the platform lands it, and what makes one of its rows unusable.

    A ``fact`` table has one row per thing a user did: its rows are counted, and each either
    reaches ``activity`` or stands in ``quarantine``. A ``reference`` table is only looked up.

    ``landed_on`` names the column with the day the row arrived (absent: the day it happened);
    a run for date D sees no row that landed after D. ``path`` may be absolute, a URI, or
    relative to the lake's ``raw/<dataset>`` folder; by default it is the table's name.
    """

    name: Name
    role: Literal["fact", "reference"]
    columns: Mapping[str, SqlType]
    format: Literal["delta", "parquet", "csv"] = "delta"
    path: str | None = None
    user: str | None = None
    happened_at: str | None = None
    landed_on: str | None = None
    key: tuple[str, ...] = ()
    non_negative: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        named = [self.user, self.happened_at, self.landed_on, *self.key, *self.non_negative]
        unknown = sorted({name for name in named if name and name not in self.columns})
        if unknown:
            msg = f"raw table {self.name}: {unknown} not among its columns {sorted(self.columns)}"
            raise ValueError(msg)
        if self.role == "fact" and not (self.user and self.happened_at):
            msg = f"raw table {self.name}: a fact table needs `user` and `happened_at`"
            raise ValueError(msg)
        return self


class Task(Config):
    """A question about the next ``window_days`` days, answered from the day forecasts.

    ``any``: will the binary column be 1 on any of the days? ``sum``: how much of the
    continuous column in total? ``formula``: what a function declared with
    :func:`lumos.tasks.task` says.

    Attributes:
        column: Of ``any`` and ``sum``.
        formula: ``module:function`` of ``formula``.
        answer: Of ``formula``: a chance (``binary``) or a quantity (``amount``).
        metric: What it is judged by, and hence trained for: ``log_loss`` and ``auc`` ask for the
            chance, ``squared_error`` for the mean, ``wape`` for the median.
        has_head: Whether a head of its own is trained jointly with the day forecasts.
    """

    name: Name
    kind: Literal["any", "sum", "formula"]
    column: Name | None = None
    window_days: int = Field(ge=1)
    formula: str | None = None
    answer: Literal["binary", "amount"] | None = None
    metric: Literal["auc", "log_loss", "squared_error", "wape"] | None = None
    has_head: bool = False

    @property
    def is_binary(self) -> bool:
        """Whether the answer is a chance."""
        return self.kind == "any" or self.answer == "binary"

    @property
    def is_median(self) -> bool:
        """Whether the answer is the median of an amount, not its mean."""
        return self.metric == "wape"

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> Self:
        if self.kind == "formula":
            if self.formula is None or self.answer is None or self.column is not None:
                msg = f"task {self.name}: a formula is declared with @task, which fills its fields"
                raise ValueError(msg)
        elif self.column is None or self.formula is not None or self.answer is not None:
            msg = f"task {self.name}: {self.kind!r} needs `column`, and no formula or answer"
            raise ValueError(msg)
        allowed = ("auc", "log_loss") if self.is_binary else ("squared_error", "wape")
        if self.metric is not None and self.metric not in allowed:
            msg = f"task {self.name}: metric={self.metric!r}, expected one of {list(allowed)}"
            raise ValueError(msg)
        if self.is_median and not self.has_head:
            msg = (
                f"task {self.name}: metric='wape' asks for a median, which no mean of days gives; "
                "add has_head=True"
            )
            raise ValueError(msg)
        return self


class EvaluationConfig(Config):
    """Forecast origins kept out of training: the last ones whose labels have matured.

    ``margin`` is how much worse than the champion a challenger's loss may be and still pass;
    ``baseline_margin`` the same for the plain recency baseline. With ``shadow_days`` a challenger
    must besides have forecast beside the champion on so many days that have matured (``lumos
    shadow``), and not be worse on them.
    """

    num_origins: int = Field(default=4, ge=1, le=1000)
    days_between_origins: int = Field(default=7, ge=1, le=3650)
    margin: float = Field(default=0.0, ge=0)
    baseline_margin: float = Field(default=0.0, ge=0)
    shadow_days: int = Field(default=0, ge=0, le=3650)


class ScoringConfig(Config):
    """Whom to score, in how many restartable shards, and how the network computes.

    Attributes:
        num_shards: At least so many; a large table gets more.
        users_per_shard: At most so many in one: what a process holds of the forecasts at once,
            and what a kill can cost.
        batch_size: Users computed at a time; on a CPU as many as fit its cache, on a GPU
            thousands.
        processes: Ranks that share the shards, under torchrun; on one machine's CPU one process
            keeps all cores busy.
        precision: ``bfloat16`` rounds matrix products, ``int8`` linear layers (on a CPU alone).
            What each costs in accuracy and brings in speed: ``python -m benchmarks.score``.
        compile: Whether PyTorch compiles the network first; on a CPU that needs a C++ compiler.
        allow_short_calendar: Score although ``event_context`` ends before the horizon, which it
            hardly ever did in training.
    """

    active_within_days: int = Field(default=365, ge=1, le=36_500)
    num_shards: int = Field(default=4, ge=1, le=100_000)
    users_per_shard: int = Field(default=32_768, ge=1, le=10_000_000)
    batch_size: int = Field(default=64, ge=1, le=1_000_000)
    processes: int = Field(default=1, ge=1, le=64)
    precision: Literal["float32", "bfloat16", "int8"] = "float32"
    compile: bool = False
    allow_short_calendar: bool = False


class PublishingConfig(Config):
    """The gate before Pacman reads, and how long scores live.

    Attributes:
        min_coverage: Share of the active users that must have a score.
        max_calibration_error: On matured days, as a share.
        max_volume_change: How far the number of scores may be from that of the last publications.
        max_drift: How unlike those of the last publications each task's scores may be: the share of
            users by which they differ more than by a common shift (:mod:`lumos.serve.spread`).
        valid_days: Days after ``as_of`` on which scores may be used.
        stores: Where ``lumos export`` hands them to, besides the table.
    """

    min_coverage: float = Field(default=0.99, gt=0, le=1)
    max_calibration_error: float = Field(default=0.1, gt=0, le=1)
    max_volume_change: float = Field(default=0.3, gt=0)
    max_drift: float = Field(default=0.3, gt=0, le=1)
    valid_days: int = Field(default=2, ge=1)
    stores: tuple[StoreConfig, ...] = ()

    @model_validator(mode="after")
    def _stores_have_names_of_their_own(self) -> Self:
        names = [store.name for store in self.stores]
        if len(set(names)) != len(names):
            msg = f"publishing.stores: {names} repeat a name"
            raise ValueError(msg)
        return self


class Recipe(Config):
    """Everything the platform needs to know about one dataset and its forecaster."""

    name: Name
    description: str
    dataset: Name
    sql: str = Field(
        default="", description="folder of the three SELECTs; empty: the dataset's own"
    )
    sql_parameters: Mapping[Name, int | float | str] = Field(default_factory=dict)
    timezone: str = "UTC"
    country: str | None = None
    late_days: int = Field(default=3, ge=1)
    raw: tuple[RawTable, ...] = Field(min_length=1)
    activity: tuple[ActivityColumn, ...] = Field(min_length=1)
    active: Name
    calendar: tuple[str, ...] = CALENDAR_COLUMNS
    events: tuple[EventColumn, ...] = ()
    static: tuple[StaticColumn, ...] = ()
    history_days: int = Field(ge=1)
    horizon_days: int = Field(ge=1)
    tasks: tuple[Task, ...] = Field(min_length=1)
    num_buckets: int = Field(default=4, ge=1)
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    scoring: ScoringConfig = ScoringConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    publishing: PublishingConfig = PublishingConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    quality: QualityConfig = QualityConfig()
    retention: RetentionConfig = RetentionConfig()

    @property
    def binary(self) -> tuple[str, ...]:
        """Names of the binary activity columns, in the recipe's order."""
        return tuple(column.name for column in self.activity if column.kind == "binary")

    @property
    def continuous(self) -> tuple[str, ...]:
        """Names of the continuous activity columns, in the recipe's order."""
        return tuple(column.name for column in self.activity if column.kind == "continuous")

    @property
    def sql_folder(self) -> str:
        """Folder of the SELECTs, relative to ``Settings.sql_root`` unless absolute."""
        return self.sql or self.dataset

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for what, names in (
            ("activity, event, calendar and static columns", self._column_names()),
            ("columns of scores", self._score_names()),
            ("raw tables", [table.name for table in self.raw]),
        ):
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                msg = f"{what}: {repeated} named more than once"
                raise ValueError(msg)
        if self.timezone not in available_timezones():
            msg = f"timezone {self.timezone!r} is unknown; use an IANA name such as 'Asia/Kolkata'"
            raise ValueError(msg)
        unknown = sorted(set(self.calendar) - set(CALENDAR_COLUMNS))
        if unknown:
            msg = f"calendar columns {unknown} are unknown; choose from {list(CALENDAR_COLUMNS)}"
            raise ValueError(msg)
        if self.active not in self.binary:
            msg = f"active={self.active!r} must be one of the binary columns {list(self.binary)}"
            raise ValueError(msg)
        if not any(table.role == "fact" for table in self.raw):
            msg = "no raw table has role 'fact': there would be no activity to forecast"
            raise ValueError(msg)
        for task in self.tasks:
            allowed = self.binary if task.kind == "any" else self.continuous
            if task.kind != "formula" and task.column not in allowed:
                msg = f"task {task.name}: {task.kind!r} needs one of {list(allowed)}"
                raise ValueError(msg)
            if task.window_days > self.horizon_days:
                msg = (
                    f"task {task.name}: window_days={task.window_days} is beyond "
                    f"horizon_days={self.horizon_days}"
                )
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _windows_fit_the_model(self) -> Self:
        if self.history_days % self.model.patch_days:
            msg = (
                f"history_days={self.history_days} is not a multiple of "
                f"model.patch_days={self.model.patch_days}; choose one"
            )
            raise ValueError(msg)
        if self.training.origins_per_window > 1 and self.model.encoder != "causal":
            msg = (
                f"training.origins_per_window={self.training.origins_per_window} needs "
                "model.encoder='causal': a bidirectional encoder shows an origin the days after it"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        names = [*self._column_names(), *(task.name for task in self.tasks)]
        taken = sorted(set(names) & RESERVED_COLUMNS)
        if taken:
            msg = f"columns or tasks named {taken}: the contract tables have these columns already"
            raise ValueError(msg)
        if self.country is not None and not has_holidays(self.country):
            msg = f"country {self.country!r} has no known holidays; use an ISO code such as 'IN'"
            raise ValueError(msg)
        return self

    def _score_names(self) -> list[str]:
        """Tasks, and the ends of the intervals of amounts."""
        amounts = [task.name for task in self.tasks if not task.is_binary]
        ends = [f"{name}_{end}" for name in amounts for end in ("low", "high")]
        return [*(task.name for task in self.tasks), *ends]

    def _column_names(self) -> list[str]:
        return [
            *(column.name for column in self.activity),
            *self.calendar,
            *(column.name for column in self.events),
            *(column.name for column in self.static),
        ]
