"""Who is in which variant: a stable hash decides, and the table `exposures` remembers.

The variant of a user is a pure function of the experiment's name and the user's id, so that any
service (an offers engine, a phone app) can compute it for itself: the first 8 bytes of
``sha256("<experiment>|<user_id>")``, big-endian, modulo 10,000, against the cumulated weights.
The table only ever grows: a user stays in the variant that was logged first, even if somebody
edits the weights of a running experiment, and a rerun of an older date takes nothing away.
"""

import hashlib
import logging
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from numpy.typing import NDArray

from lumos import ledger
from lumos.config import Experiment, Recipe
from lumos.delta import open_table, predicate, read
from lumos.settings import Settings
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, Report, Request, TableWritten

log = logging.getLogger(__name__)

NUM_BUCKETS = 10_000
_COMMIT_ATTEMPTS = 8


def buckets_of(user_ids: Iterable[str], salt: str) -> NDArray[np.int64]:
    """Each user's bucket, uniform in [0, 10,000) and independent between salts.

    Returns:
        int64 of shape (N,).
    """
    heads = b"".join(
        hashlib.sha256(f"{salt}|{user_id}".encode()).digest()[:8] for user_id in user_ids
    )
    return (np.frombuffer(heads, dtype=">u8") % NUM_BUCKETS).astype(np.int64)


def bucket_shares(experiment: Experiment) -> NDArray[np.float64]:
    """The share of buckets that each variant owns, in the recipe's order; they sum to 1.

    It is the weight to within a bucket, and what the sample-ratio check has to expect.
    """
    return np.diff(_edges(experiment), prepend=0) / NUM_BUCKETS


def variant_of(user_ids: Iterable[str], experiment: Experiment) -> NDArray[np.str_]:
    """The variant's name for each user.

    Returns:
        Unicode strings of shape (N,).
    """
    names = np.array([variant.name for variant in experiment.variants])
    bucket = buckets_of(user_ids, experiment.name)
    return names[np.searchsorted(_edges(experiment), bucket, side="right")]


def _edges(experiment: Experiment) -> NDArray[np.int64]:
    """The first bucket that is no longer the variant's."""
    weights = np.cumsum([variant.weight for variant in experiment.variants])
    edges: NDArray[np.int64] = np.rint(weights / weights[-1] * NUM_BUCKETS).astype(np.int64)
    return edges


def assign(request: Request) -> Report:
    """Expose every user registered by the business date to the running experiments.

    Raises:
        BadInput: An unknown experiment, one that has not started, or no users table yet.
    """
    experiments = running(request)
    if not experiments:
        return request.report(details={"note": no_experiments(request.recipe)})
    users = ledger.require(
        request.settings,
        request.recipe,
        "users",
        request.date,
        remedy=f"Run lumos aggregate --date {request.date} first.",
    )
    inputs: dict[str, int | str] = {"users": users.version}
    if done := ledger.already_done(request, "exposures", inputs):
        return done
    registered = _registered(request, users.version)
    version, rows, metrics = 0, 0, {}
    for experiment in experiments:
        version = _keep(request.settings, request.recipe, _exposures(registered, experiment))
        exposed = _exposed_by(request, experiment, version)
        rows += exposed.num_rows
        for variant in experiment.variants:
            count = pc.sum(pc.equal(exposed["variant"], variant.name)).as_py() or 0
            metrics[f"{experiment.name}.num_users.{variant.name}"] = float(count)
    report = request.report(
        tables=(TableWritten(table="exposures", version=version, rows=rows),),
        metrics=metrics,
        details={"experiments": [experiment.name for experiment in experiments]},
    )
    first = min(experiment.start for experiment in experiments)
    return ledger.record(request, report, inputs=inputs, first_day=first)


def running(request: Request) -> tuple[Experiment, ...]:
    """The experiment asked for, or all that have started, which may be none.

    Raises:
        BadInput: No such experiment, or the one asked for starts after the business date.
    """
    recipe, name = request.recipe, request.options.get("experiment") or None
    try:
        asked = recipe.experiments if name is None else (recipe.experiment(name),)
    except KeyError as error:
        raise BadInput(str(error.args[0])) from error
    started = tuple(experiment for experiment in asked if experiment.start <= request.date)
    if name is not None and not started:
        starts = ", ".join(f"{experiment.name} on {experiment.start}" for experiment in asked)
        msg = f"nothing to do for {request.date}: {starts} has yet to start; use a later --date"
        raise BadInput(msg)
    return started


def no_experiments(recipe: Recipe) -> str:
    """What a verb of this room says of a recipe that compares nothing."""
    return f"recipe {recipe.name} has no experiments: nothing to assign or measure"


def _registered(request: Request, version: int) -> pa.Table:
    """Every user registered by the business date, once: ``user_id``, ``registered_on``."""
    users = read(
        table_uri(request.settings, request.recipe, "users"),
        version=version,
        columns=("user_id", "registered_on"),
    )
    if users is None:
        msg = f"users of recipe {request.recipe.name} stands in the ledger but not in the lake"
        raise FileNotFoundError(msg)
    known = users.filter(pc.less_equal(users["registered_on"], pa.scalar(request.date)))
    first = known.group_by("user_id").aggregate([("registered_on", "min")])
    return first.rename_columns(["user_id", "registered_on"]).sort_by("user_id")


def _exposures(registered: pa.Table, experiment: Experiment) -> pa.Table:
    start = pa.scalar(experiment.start)
    variants = variant_of(registered["user_id"].to_pylist(), experiment)
    return pa.table(
        {
            "experiment": pa.array([experiment.name] * registered.num_rows, pa.string()),
            "user_id": registered["user_id"].cast(pa.string()),
            "variant": pa.array(variants, pa.string()),
            "exposed_on": pc.max_element_wise(registered["registered_on"], start),
        }
    )


def _keep(settings: Settings, recipe: Recipe, exposed: pa.Table) -> int:
    """Add who is not there yet, and move an exposure to an earlier day where late data says so.

    Both can be done in any order and any number of times with the same result. A MERGE, not an
    overwrite: two dates that run at the same time must not lose each other's users.

    Returns:
        The Delta version that holds all of ``exposed``.
    """
    declared = tables(recipe)["exposures"]
    uri = table_uri(settings, recipe, "exposures")
    for attempt in range(_COMMIT_ATTEMPTS):
        table = open_table(uri) or DeltaTable.create(
            uri,
            schema=declared.arrow_schema(recipe),
            partition_by=list(declared.partition),
            mode="ignore",
        )
        news = _news(table, exposed)
        if not news.num_rows:
            break
        try:
            (
                table.merge(
                    news,
                    "t.experiment = s.experiment AND t.user_id = s.user_id",
                    source_alias="s",
                    target_alias="t",
                )
                .when_matched_update({"exposed_on": "s.exposed_on"}, "s.exposed_on < t.exposed_on")
                .when_not_matched_insert_all()
                .execute()
            )
        except CommitFailedError:
            if attempt == _COMMIT_ATTEMPTS - 1:
                raise
            log.info("another run wrote exposures at the same moment; trying again")
        else:
            break
    return table.version()


def _news(table: DeltaTable, exposed: pa.Table) -> pa.Table:
    """The rows of ``exposed`` that are new, or earlier than what the table has."""
    names = pc.unique(exposed["experiment"]).to_pylist()
    if not names:
        return exposed
    known = pa.table(
        table.scan(columns=["user_id", "exposed_on"], predicate=predicate(experiment=names[0]))
    )
    known = known.rename_columns(["user_id", "known_on"]).cast(
        pa.schema([("user_id", pa.string()), ("known_on", pa.date32())])
    )
    joined = exposed.join(known, "user_id", join_type="left outer")
    is_news = pc.or_kleene(
        pc.is_null(joined["known_on"]), pc.less(joined["exposed_on"], joined["known_on"])
    )
    return joined.filter(is_news).select(exposed.column_names).sort_by("user_id")


def _exposed_by(request: Request, experiment: Experiment, version: int) -> pa.Table:
    """Rows of those who were in the experiment on the business date, whoever came later."""
    found = read(
        table_uri(request.settings, request.recipe, "exposures"),
        version=version,
        where=predicate(experiment=experiment.name, exposed_on=(experiment.start, request.date)),
    )
    return pa.table(found)
