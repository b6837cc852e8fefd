"""What a metric would have been for each user, had an experiment run over days that have passed.

The metric's own SELECT says so, once for all evenings of the window. For that the view
``user_days`` holds every user once for each evening, under the id ``<evening>|<user_id>`` and with
the days up to it: a SELECT groups by ``user_id`` and cannot tell.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lumos.aggregate.contract import blaming
from lumos.delta import predicate, read
from lumos.experiment.assignment import exposed_from
from lumos.experiment.declaration import Experiment
from lumos.experiment.effects import DENOMINATOR, NUMERATOR
from lumos.experiment.held import digest
from lumos.experiment.logs import eligible_users
from lumos.experiment.metrics import Metric, load_metric
from lumos.experiment.moments import BEFORE
from lumos.experiment.reduce import run_metric, user_days
from lumos.experiment.simulate import History
from lumos.experiment.sums import FORECAST
from lumos.tables import table_uri
from lumos.verbs import BadInput, Request

# More users are a sample: replays learn the spread between users from so many to within 2%, and
# the number of users in an experiment is theirs to choose.
MOST_USERS = 20_000
_KEY = "|"


@dataclass(frozen=True, eq=False)
class Past:
    """Users who could have taken part from the window's first day, and what each metric was.

    Attributes:
        num_users: How many could.
        users: Ids of all of them, or of a sample of :data:`MOST_USERS`; (N,).
        metrics: By name, of those users in that order.
    """

    num_users: int
    users: Sequence[str]
    metrics: Mapping[str, History]


def past(
    spark: SparkSession,
    request: Request,
    experiment: Experiment,
    *,
    names: Sequence[str],
    num_days: int,
    publication: Mapping[str, Any] | None = None,
) -> Past:
    """The experiment's metrics over a window that ends on the request's date.

    Everybody takes part on the window's first day who was registered by then and whom eligibility,
    layer and holdout let in. A ramp and a log of exposures are of the real experiment: none here.

    Args:
        spark: Session with the views ``activity`` and ``users``.
        request: Of the verb; its date ends the window.
        experiment: The declaration.
        names: Of metrics.
        num_days: D, of the window.
        publication: The manifest of scores from before the window, for the covariate.

    Raises:
        BadInput: The window, with the days before it, begins before activity does; nobody was
            registered; or a SELECT is at fault.
    """
    first = begins(request, num_days)
    moved = experiment.model_copy(update={"start": first, "ramp": ()})
    _refuse_short(spark, request, experiment, first)
    users = _taking_part(spark, request, moved)
    sample = _sample(users)
    activity = spark.table("activity").join(
        F.broadcast(spark.createDataFrame(pa.table({"user_id": sample}))), "user_id"
    )
    metrics = [load_metric(request.settings, request.recipe, name) for name in names]
    before = first - dt.timedelta(days=experiment.pre_days)
    found = {}
    earlier = _values(spark, request, experiment, metrics, activity, sample, before, [first])
    evenings = [first + dt.timedelta(days=day + 1) for day in range(num_days)]
    since = _values(spark, request, experiment, metrics, activity, sample, first, evenings)
    known = (
        {} if publication is None else {FORECAST: _forecast(request, moved, publication, sample)}
    )
    for name in names:
        covariates = {BEFORE + column: values[0] for column, values in earlier[name].items()}
        found[name] = History(
            since[name][NUMERATOR], since[name].get(DENOMINATOR), {**covariates, **known}
        )
    return Past(len(users), sample, found)


def inputs_of(
    request: Request,
    experiments: Sequence[Experiment],
    versions: dict[str, int],
    *scores: dict[str, Any] | None,
) -> dict[str, int | str]:
    """What a run is made from, for the ledger."""
    known = [str(manifest["scores_version"]) for manifest in scores if manifest is not None]
    return {**versions, "experiments": digest(request, experiments), "scores": ",".join(known)}


def refuse_without_forecast(request: Request, experiment: Experiment, has_scores: bool) -> None:
    """The declared adjustment needs scores from before the window.

    Raises:
        BadInput: There are none.
    """
    if has_scores or experiment.adjust not in ("forecast", "both"):
        return
    msg = (
        f"experiment {experiment.name} is adjusted by {experiment.forecast}, but no scores were "
        f"published before the {experiment.planned_days} days that end on {request.date}. Run "
        f"lumos score and lumos publish for a date before them, or take a later --date"
    )
    raise BadInput(msg)


def begins(request: Request, num_days: int) -> dt.date:
    """The first day of a window that ends on the request's date."""
    return request.date - dt.timedelta(days=num_days - 1)


def longest(spark: SparkSession, request: Request, experiment: Experiment) -> int:
    """Days of the longest window that activity allows, with the days before it."""
    earliest = spark.table("activity").agg(F.min("day")).collect()[0][0]
    if earliest is None:
        return 0
    return int((request.date - earliest).days) + 1 - experiment.pre_days


def _refuse_short(
    spark: SparkSession, request: Request, experiment: Experiment, first: dt.date
) -> None:
    num_days = (request.date - first).days + 1
    if longest(spark, request, experiment) >= num_days:
        return
    needed = num_days + experiment.pre_days
    msg = (
        f"history is too short: experiment {experiment.name} wants {num_days} days that end on "
        f"{request.date} and {experiment.pre_days} before them, and activity of recipe "
        f"{request.recipe.name} does not reach back so far. Run lumos aggregate "
        f"--date {request.date} --days {needed}, or take a later --date"
    )
    raise BadInput(msg)


def _taking_part(spark: SparkSession, request: Request, moved: Experiment) -> list[str]:
    registered = (
        spark.table("users")
        .groupBy("user_id")
        .agg(F.min("registered_on").alias("registered_on"))
        .where(F.col("registered_on") <= F.lit(moved.start))
        .orderBy("user_id")
        .toArrow()
    )
    ids = registered["user_id"].cast(pa.string())
    days = registered["registered_on"].to_numpy().astype("datetime64[D]")
    takes_part = ~np.isnat(exposed_from(ids.to_pylist(), days, moved))
    if moved.eligible is not None:
        on_first = request.model_copy(update={"date": moved.start})
        eligible = eligible_users(on_first, spark, moved, moved.eligible)
        takes_part &= pc.is_in(ids, eligible).to_numpy(zero_copy_only=False)
    if takes_part.sum() < 2:
        msg = (
            f"experiment {moved.name}: {takes_part.sum()} users could have taken part from "
            f"{moved.start}; two variants need more. Take a later --date, or see who is eligible"
        )
        raise BadInput(msg)
    return [str(user) for user in np.array(ids.to_pylist(), object)[takes_part]]


def _sample(users: Sequence[str]) -> list[str]:
    if len(users) <= MOST_USERS:
        return list(users)
    chosen = np.random.default_rng(0).choice(len(users), MOST_USERS, replace=False)
    return [users[place] for place in np.sort(chosen)]


def _values(
    spark: SparkSession,
    request: Request,
    experiment: Experiment,
    metrics: Sequence[Metric],
    activity: DataFrame,
    users: Sequence[str],
    first: dt.date,
    ends: Sequence[dt.date],
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Each metric's columns from ``first`` until before each of ``ends``, (D, N)."""
    days = [(end - first).days for end in ends]
    evenings = spark.createDataFrame(
        [
            (place, num, end - dt.timedelta(days=1))
            for place, (num, end) in enumerate(zip(days, ends, strict=True))
        ],
        "place int, num_days int, as_of date",
    )
    key = F.concat_ws(_KEY, "place", "user_id").alias("user_id")
    exposed = (
        spark.createDataFrame(pa.table({"user_id": pa.array(users, pa.string())}))
        .crossJoin(F.broadcast(evenings))
        .select(
            key,
            F.lit(experiment.control).alias("variant"),
            F.lit(first).alias("first_day"),
            "as_of",
            "num_days",
        )
    )
    done = activity.where(F.col("day") >= F.lit(first)).join(
        F.broadcast(evenings), F.col("day") <= F.col("as_of")
    )
    done = done.select(key, *(name for name in activity.columns if name != "user_id"))
    user_days(spark, request.recipe, experiment, exposed, done)
    place_of = {user: place for place, user in enumerate(users)}
    found = {}
    for metric in metrics:
        frame = run_metric(spark, metric)
        with blaming(metric.path):
            rows = frame.toArrow()
        keys = pc.split_pattern(rows["user_id"], _KEY, max_splits=1).combine_chunks()
        evening = pc.list_element(keys, 0).cast(pa.int32()).to_numpy()
        user = [place_of[name] for name in pc.list_element(keys, 1).to_pylist()]
        columns = {}
        for name in (name for name in rows.column_names if name != "user_id"):
            cells = np.zeros((len(ends), len(users)))
            cells[evening, user] = pc.fill_null(rows[name], 0.0).to_numpy()
            columns[name] = cells
        if metric.winsorize is not None:
            caps = np.quantile(columns[NUMERATOR], metric.winsorize, axis=1, keepdims=True)
            columns[NUMERATOR] = np.minimum(columns[NUMERATOR], caps)
        found[metric.name] = columns
    return found


def _forecast(
    request: Request, experiment: Experiment, manifest: Mapping[str, Any], users: Sequence[str]
) -> NDArray[np.float64]:
    """Each user's score; the mean of the others stands for one that has none."""
    assert experiment.forecast is not None
    scores = read(
        table_uri(request.settings, request.recipe, "scores"),
        version=manifest["scores_version"],
        columns=("user_id", experiment.forecast),
        where=predicate(as_of=manifest["as_of"]),
    )
    assert scores is not None, "a live publication has its scores"
    said = dict(
        zip(scores["user_id"].to_pylist(), scores[experiment.forecast].to_pylist(), strict=True)
    )
    values = np.array([said.get(user, np.nan) for user in users], dtype=float)
    values[np.isnan(values)] = np.nanmean(values) if len(said) else 0.0
    return values
