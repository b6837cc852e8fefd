"""An experiment as it was declared before it began: one TOML file, checked, and then held to.

The files of a recipe lie in ``experiments/`` beside its SELECTs, one ``NAME.toml`` each. What a
sceptic asks of a comparison is settled there before the first user is exposed: who takes part, what
is compared with what, which metric decides, when one may look, and when it ends. `assign` writes
the declaration into the table `experiments` on the first day; from then on a file that says
something else is refused, but for what may change without touching the comparison.
"""

import datetime as dt
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from lumos.config import Config, Name, Recipe, explain
from lumos.dates import day_number
from lumos.experiment.faults import Faults
from lumos.experiment.texts import read_text
from lumos.settings import Settings
from lumos.verbs import BadInput, Request

NUM_BUCKETS = 10_000
ALL = "all"
# How the primary metric's estimate may be made more precise: by what is known before exposure.
ADJUSTMENTS: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "pre_period": ("pre_numerator", "pre_denominator"),
    "forecast": ("forecast",),
    "both": ("pre_numerator", "pre_denominator", "forecast"),
}
# What the view `user_days` has beside the declared columns.
_USER_DAYS = frozenset(
    {"user_id", "variant", "first_day", "as_of", "num_days", "number", "day", "active"}
)


def _file_name(name: str) -> str:
    if not name or Path(name).name != name or name.startswith("."):
        msg = f"{name!r} is no plain file name; the file lies beside the experiment's own"
        raise ValueError(msg)
    return name


FileName = Annotated[str, AfterValidator(_file_name)]


class Variant(Config):
    """One arm of an experiment."""

    name: Name
    weight: float = Field(gt=0)


class Judged(Config):
    """A metric (a file in ``metrics/``) and the direction that is good."""

    metric: Name
    direction: Literal["up", "down"]


class Layer(Config):
    """A slice of a layer: experiments of one layer share no user if their buckets do not meet.

    ``buckets`` is first and end, of 10,000; two layers are independent of each other.
    """

    name: Name
    buckets: tuple[int, int] = (0, NUM_BUCKETS)

    @model_validator(mode="after")
    def _within(self) -> Self:
        first, end = self.buckets
        if not 0 <= first < end <= NUM_BUCKETS:
            msg = f"layer {self.name}: buckets={[first, end]}, expected 0 <= first < end <= 10000"
            raise ValueError(msg)
        return self


class Holdout(Config):
    """A share of users who are kept out of every experiment that names the same holdout."""

    name: Name
    share: float = Field(gt=0, lt=1)


class Step(Config):
    """From ``day`` on this share of the experiment's users takes part."""

    day: dt.date
    share: float = Field(gt=0, le=1)


class Experiment(Config):
    """What is compared, for whom, by which metric, until when; see docs/ab-tests.md.

    ``columns`` names activity columns for the metrics: ``{"cost": "coupon_discount"}`` lets every
    metric say ``cost``. ``minimum_effect`` is the relative change of the primary metric that is
    worth finding. ``looks`` are the numbers of the days on which the primary metric may stop the
    experiment; none: every day.
    """

    name: Name
    hypothesis: str = Field(min_length=1)
    description: str = ""
    unit: Literal["user"] = "user"
    variants: tuple[Variant, ...] = Field(min_length=2)
    start: dt.date
    planned_days: int = Field(ge=1, le=1000)
    stopped_on: dt.date | None = None
    primary: Judged
    secondary: tuple[Judged, ...] = ()
    guardrails: tuple[Judged, ...] = ()
    columns: Mapping[Name, Name] = Field(default_factory=dict)
    segments: tuple[Name, ...] = ()
    adjust: Literal["none", "pre_period", "forecast", "both"] = "pre_period"
    pre_days: int = Field(default=28, ge=1, le=365)
    forecast: Name | None = Field(default=None, description="a task: its score is the covariate")
    looks: tuple[int, ...] = ()
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    power: float = Field(default=0.8, gt=0, lt=1)
    minimum_effect: float = Field(gt=0)
    srm_alpha: float = Field(default=0.001, gt=0, lt=1)
    eligible: FileName | None = Field(default=None, description="SELECT user_id: who may take part")
    exposures: FileName | None = Field(
        default=None, description="SELECT user_id, day[, variant]: the log of who met the change"
    )
    excluded: FileName | None = Field(default=None, description="user ids, one a line")
    layer: Layer | None = None
    holdout: Holdout | None = None
    ramp: tuple[Step, ...] = ()
    is_simulated_split: bool = Field(
        default=False, description="an A/A split of data in which nobody was treated"
    )

    @property
    def end(self) -> dt.date:
        """The last day: as planned, or the day on which somebody stopped it."""
        planned = self.start + dt.timedelta(days=self.planned_days - 1)
        return min(planned, self.stopped_on or planned)

    @property
    def control(self) -> str:
        """The variant that the others are compared with: the first."""
        return self.variants[0].name

    @property
    def treatments(self) -> tuple[str, ...]:
        """All variants but the control."""
        return tuple(variant.name for variant in self.variants[1:])

    @property
    def look_days(self) -> tuple[int, ...]:
        """Numbers of the days on which the primary metric may stop it; the last is the last."""
        return self.looks or tuple(range(1, self.planned_days + 1))

    @property
    def metrics(self) -> Mapping[str, tuple[str, str]]:
        """Role and good direction of each metric, the primary first."""
        roles = {"primary": (self.primary,), "secondary": self.secondary}
        roles["guardrail"] = self.guardrails
        return {
            each.metric: (role, each.direction) for role, them in roles.items() for each in them
        }

    @property
    def alpha_each(self) -> float:
        """What each treatment may spend of alpha: they share it (Bonferroni)."""
        return self.alpha / len(self.treatments)

    def day(self, date: dt.date) -> int:
        """1 on the first day."""
        return day_number(date) - day_number(self.start) + 1

    def runs_on(self, date: dt.date) -> bool:
        """The date is one of its days."""
        return self.start <= date <= self.end

    @model_validator(mode="after")
    def _arms(self) -> Self:
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            msg = f"experiment {self.name}: variants {names} overlap, one is named twice"
            raise ValueError(msg)
        total = sum(variant.weight for variant in self.variants)
        if abs(total - 1) > 1e-9:
            msg = f"experiment {self.name}: weights sum to {total:g}, expected 1"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _measures(self) -> Self:
        used = [self.primary, *self.secondary, *self.guardrails]
        names = [each.metric for each in used]
        if len(set(names)) != len(names):
            msg = f"experiment {self.name}: metrics {names}, each may have one role only"
            raise ValueError(msg)
        taken = sorted(_USER_DAYS & set(self.columns))
        if taken:
            msg = (
                f"experiment {self.name}: columns {taken} are `user_days`' own; choose other names"
            )
            raise ValueError(msg)
        if self.adjust in ("forecast", "both") and self.forecast is None:
            msg = f"experiment {self.name}: adjust={self.adjust!r} needs `forecast`, a task's name"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _calendar(self) -> Self:
        ascending = sorted(set(self.looks))
        if self.looks and (
            list(self.looks) != ascending or ascending[0] < 1 or ascending[-1] != self.planned_days
        ):
            msg = (
                f"experiment {self.name}: looks={list(self.looks)}, expected ascending numbers of "
                f"days of which the last is planned_days={self.planned_days}"
            )
            raise ValueError(msg)
        days, shares = [step.day for step in self.ramp], [step.share for step in self.ramp]
        if self.ramp and (
            days[0] != self.start or days != sorted(set(days)) or shares != sorted(shares)
        ):
            msg = (
                f"experiment {self.name}: the ramp begins on {self.start} and goes up day by day; "
                "a smaller share would take users out who were exposed"
            )
            raise ValueError(msg)
        if self.stopped_on is not None and self.stopped_on < self.start:
            msg = f"experiment {self.name}: stopped_on={self.stopped_on} is before its start"
            raise ValueError(msg)
        return self


def folder(settings: Settings, recipe: Recipe) -> Path:
    """Where the recipe's experiments are declared."""
    return settings.sql_root / recipe.sql_folder / "experiments"


def declared(
    settings: Settings, recipe: Recipe, faults: Faults | None = None
) -> tuple[Experiment, ...]:
    """Every declared experiment, by name.

    Args:
        settings: Where SQL lies.
        recipe: Whose experiments.
        faults: Gets those of files that are no valid declaration, or want the users of another
            experiment that began before; without it they are raised.

    Raises:
        BadInput: There are such files, and no ``faults``.
    """
    kept = Faults() if faults is None else faults
    found: list[Experiment] = []
    for path in sorted(folder(settings, recipe).glob("*.toml")):
        with kept.kept():
            found.append(_read(path, recipe))
    sound: list[Experiment] = []
    for experiment in sorted(found, key=lambda item: (item.start, item.name)):
        with kept.kept():
            _refuse_meeting(experiment, sound)
            sound.append(experiment)
    if faults is None:
        kept.refuse(())
    return tuple(sorted(sound, key=lambda item: item.name))


def _read(path: Path, recipe: Recipe) -> Experiment:
    try:
        experiment = Experiment.model_validate(tomllib.loads(read_text(path)))
    except ValidationError as error:
        raise BadInput(f"{path}: {explain(error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path} is not TOML: {error}") from error
    if experiment.name != path.stem:
        msg = f"{path}: name={experiment.name!r}, expected {path.stem!r}, as the file is called"
        raise BadInput(msg)
    activity = [column.name for column in recipe.activity]
    attributes = [column.name for column in recipe.static if column.kind == "categorical"]
    tasks = [task.name for task in recipe.tasks]
    for what, names, choices in (
        ("columns", experiment.columns.values(), activity),
        ("segments", experiment.segments, attributes),
        ("forecast", filter(None, [experiment.forecast]), tasks),
    ):
        unknown = [name for name in names if name not in choices]
        if unknown:
            msg = f"{path}: {what} {unknown} are not recipe {recipe.name}'s; it has {choices}"
            raise BadInput(msg)
    return experiment


def _refuse_meeting(one: Experiment, earlier: Sequence[Experiment]) -> None:
    """Two experiments of a layer that run on the same day may not share a bucket."""
    for other in earlier:
        if one.layer is None or other.layer is None or one.layer.name != other.layer.name:
            continue
        (first, end), (other_first, other_end) = one.layer.buckets, other.layer.buckets
        at_once = one.start <= other.end and other.start <= one.end
        if at_once and first < other_end and other_first < end:
            msg = (
                f"experiments {other.name} and {one.name} run at once and both want buckets "
                f"{max(first, other_first)} to {min(end, other_end)} of layer "
                f"{one.layer.name}; give each its own, or another layer"
            )
            raise BadInput(msg)


def named(request: Request) -> Experiment:
    """The experiment asked for, on whatever days it runs.

    Raises:
        BadInput: None was named, there is none of that name, or its file is at fault.
    """
    faults = Faults()
    known = declared(request.settings, request.recipe, faults)
    name = request.options.get("experiment")
    for experiment in known:
        if experiment.name == name:
            return experiment
    # The one that is asked for may be the one at fault.
    faults.refuse(())
    names = ", ".join(experiment.name for experiment in known) or "none"
    wrong = f"recipe {request.recipe.name} has no experiment {name!r}" if name else "which one?"
    msg = (
        f"lumos {request.verb} --experiment: {wrong}; declared are {names}, in "
        f"{folder(request.settings, request.recipe)}"
    )
    raise BadInput(msg)


def running(request: Request, faults: Faults) -> tuple[Experiment, ...]:
    """The experiment asked for, or all of which the date is a day, which may be none.

    ``faults`` gets those of declarations; that of the experiment asked for is raised.

    Raises:
        BadInput: No such experiment, or the one asked for does not run on the date.
    """
    name = request.options.get("experiment") or None
    if name is None:
        known = declared(request.settings, request.recipe, faults)
        return tuple(experiment for experiment in known if experiment.runs_on(request.date))
    experiment = named(request)
    if not experiment.runs_on(request.date):
        msg = (
            f"nothing to do for {request.date}: experiment {name} runs from {experiment.start} to "
            f"{experiment.end}; use a --date of these"
        )
        raise BadInput(msg)
    return (experiment,)


def nothing_runs(request: Request) -> str:
    """What a verb of this room says of a date on which nothing is compared."""
    known = [e.name for e in declared(request.settings, request.recipe, Faults())]
    what = f"none of {', '.join(known)} runs" if known else "no experiment is declared"
    return f"recipe {request.recipe.name}: {what} on {request.date}: nothing to assign or measure"
