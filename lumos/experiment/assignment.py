"""Who is in which variant: a stable hash decides, and the table `exposures` remembers.

Everything is a pure function of the declaration and the user's id, so that any service (an offers
engine, a phone app) can compute it for itself: the first 8 bytes of ``sha256("<salt>|<user_id>")``,
big-endian, modulo 10,000, is the user's bucket. The salts are independent questions:

* ``<experiment>`` against the cumulated weights: the variant;
* ``<experiment>|ramp`` against the ramp's share: whether the user takes part yet. A larger share
  adds users and moves nobody;
* ``layer|<layer>`` within the experiment's buckets of the layer: experiments of one layer whose
  buckets do not meet share no user;
* ``holdout|<holdout>`` against its share: users who are kept out of all of them.

The table only ever grows: a user stays in the variant that was logged first, and a rerun of an
older date takes nothing away. Users who do not count (in two variants, exposed before the start,
put on the list of excluded users later) stay in it with the reason, so that they are counted and
nobody has to wonder.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from lumos import ledger
from lumos.delta import add_columns, open_table, predicate, read
from lumos.experiment.declaration import NUM_BUCKETS, Experiment, nothing_runs, running
from lumos.experiment.faults import Faults
from lumos.experiment.held import beside, digest, freeze
from lumos.experiment.logs import eligible_users, logged_exposures
from lumos.experiment.texts import read_text
from lumos.experiment.views import pinned, pinned_views
from lumos.tables import table_uri, tables
from lumos.verbs import Report, Request, TableWritten

log = logging.getLogger(__name__)

TWO_VARIANTS = "in two variants"
TOO_EARLY = "exposed before the start"
LISTED = "on the list of excluded users"
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


def exposed_from(
    user_ids: Sequence[str], registered_on: NDArray[np.datetime64], experiment: Experiment
) -> NDArray[np.datetime64]:
    """The first day on which each user takes part; ``NaT`` for those who do not.

    Args:
        user_ids: N ids.
        registered_on: ``datetime64[D]`` of shape (N,).
        experiment: The declaration.

    Returns:
        ``datetime64[D]`` of shape (N,): the start, the day of registration, or the first step of
        the ramp that takes the user in, whichever comes last.
    """
    first = np.maximum(registered_on, np.datetime64(experiment.start, "D"))
    if experiment.ramp:
        place = buckets_of(user_ids, f"{experiment.name}|ramp")
        ends = [round(step.share * NUM_BUCKETS) for step in experiment.ramp]
        days = np.array([*(step.day for step in experiment.ramp), None], "datetime64[D]")
        first = np.maximum(first, days[np.searchsorted(ends, place, side="right")])
    if experiment.layer is not None:
        place = buckets_of(user_ids, f"layer|{experiment.layer.name}")
        low, high = experiment.layer.buckets
        first[(place < low) | (place >= high)] = None
    if experiment.holdout is not None:
        place = buckets_of(user_ids, f"holdout|{experiment.holdout.name}")
        first[place < round(experiment.holdout.share * NUM_BUCKETS)] = None
    return first


def assign(request: Request) -> Report:
    """Expose users to the experiments that run on the business date.

    Raises:
        BadInput: An unknown experiment, one that does not run on the date or whose file has
            changed, a SELECT that is at fault, or no users table yet. What is wrong with one
            experiment is raised when all others are done.
    """
    faults = Faults()
    experiments = faults.sound(running(request, faults), partial(_declared_as_before, request))
    if not experiments:
        faults.refuse(())
        return request.report(details={"note": nothing_runs(request)})
    needed = ["users"]
    if any(experiment.eligible or experiment.exposures for experiment in experiments):
        needed.append("activity")
    versions = pinned(request, needed)
    inputs: dict[str, int | str] = {**versions, "experiments": digest(request, experiments)}
    if done := ledger.already_done(request, "exposures", inputs | faults.inputs()):
        faults.refuse(done.details["experiments"])
        return done
    registered = _registered(request, versions["users"])
    found: list[_Assigned] = []
    # Spark is started for declarations that bring SQL; a hash needs none.
    with pinned_views(request, versions) if len(needed) > 1 else nullcontext(None) as spark:
        for experiment in experiments:
            with faults.kept():
                found.append(_assigned(request, registered, experiment, spark))
    names = [each.experiment.name for each in found]
    if not found:
        faults.refuse(())
    notes = [note for each in found for note in each.notes]
    for note in notes:
        log.warning("%s", note)
    rows = sum(each.num_rows for each in found)
    report = request.report(
        tables=(TableWritten(table="exposures", version=found[-1].version, rows=rows),),
        metrics={
            f"{each.experiment.name}.num_users.{variant}": float(count)
            for each in found
            for variant, count in each.counts.items()
        },
        details={"experiments": names, "notes": notes},
    )
    first = min(each.experiment.start for each in found)
    ledger.record(request, report, inputs=inputs | faults.inputs(), first_day=first)
    faults.refuse(names)
    return report


def _declared_as_before(request: Request, experiment: Experiment) -> None:
    freeze(request, experiment)
    # All files that it names are there.
    digest(request, [experiment])


@dataclass(frozen=True)
class _Assigned:
    """What became of one experiment: users who count by variant, and what to say of others."""

    experiment: Experiment
    version: int
    num_rows: int
    counts: dict[str, int]
    notes: list[str]


def _assigned(
    request: Request, registered: pa.Table, experiment: Experiment, spark: SparkSession | None
) -> _Assigned:
    exposures, notes = _exposures(request, registered, experiment, spark)
    listed, unknown = _listed(request, experiment, registered)
    notes += unknown
    version = _keep(request, experiment, exposures, listed)
    exposed = _exposed_by(request, experiment, version)
    counted = exposed.filter(pc.is_null(exposed["excluded"]))
    counts = {
        variant.name: pc.sum(pc.equal(counted["variant"], variant.name)).as_py() or 0
        for variant in experiment.variants
    }
    for reason in (TWO_VARIANTS, TOO_EARLY, LISTED):
        count = pc.sum(pc.equal(exposed["excluded"], reason)).as_py() or 0
        if count:
            notes.append(f"{experiment.name}: {count:,} users do not count, {reason}")
    return _Assigned(experiment, version, exposed.num_rows, counts, notes)


def _listed(
    request: Request, experiment: Experiment, registered: pa.Table
) -> tuple[pa.Array, list[str]]:
    """Ids on the experiment's list of excluded users, and what to say of strangers on it."""
    if experiment.excluded is None:
        return pa.array([], pa.string()), []
    text = read_text(beside(request, experiment, experiment.excluded))
    listed = pa.array([line.strip() for line in text.splitlines() if line.strip()], pa.string())
    unknown = len(listed) - (pc.sum(pc.is_in(listed, registered["user_id"])).as_py() or 0)
    if not unknown:
        return listed, []
    return listed, [f"{experiment.name}: {unknown:,} of {experiment.excluded} are no users"]


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


def _exposures(
    request: Request, registered: pa.Table, experiment: Experiment, spark: SparkSession | None
) -> tuple[pa.Table, list[str]]:
    """Rows of the table for whoever takes part by the business date, and what to say of others."""
    notes: list[str] = []
    ids = registered["user_id"].cast(pa.string())
    days = registered["registered_on"].to_numpy().astype("datetime64[D]")
    first = exposed_from(ids.to_pylist(), days, experiment)
    if experiment.eligible is not None:
        assert spark is not None
        eligible = eligible_users(request, spark, experiment, experiment.eligible)
        # Who takes part already stays, eligible or not: to leave out those who changed would bias.
        first[~pc.is_in(ids, eligible).to_numpy()] = None
    table = pa.table(
        {
            "experiment": pa.array([experiment.name] * len(ids), pa.string()),
            "user_id": ids,
            "variant": pa.array(variant_of(ids.to_pylist(), experiment), pa.string()),
            "exposed_on": pa.array(first, pa.date32()),
            "excluded": pa.nulls(len(ids), pa.string()),
        }
    )
    if experiment.exposures is not None:
        assert spark is not None
        logged, said = logged_exposures(request, spark, experiment, experiment.exposures)
        table, notes = _met(table, logged, experiment), notes + said
        strangers = pc.sum(pc.invert(pc.is_in(logged["user_id"], ids))).as_py() or 0
        if strangers:
            notes.append(f"{experiment.name}: {strangers:,} users of the log are not registered")
    taking_part = pc.fill_null(pc.less_equal(table["exposed_on"], pa.scalar(request.date)), False)
    return table.filter(taking_part), notes


def _met(table: pa.Table, logged: pa.Table, experiment: Experiment) -> pa.Table:
    """Triggered analysis: only those who met the change, from the day on which they did."""
    joined = table.join(logged.cast(_LOG), "user_id", join_type="inner").sort_by("user_id")
    start = pa.scalar(experiment.start)
    other = pc.or_kleene(
        pc.not_equal(joined["seen"], joined["variant"]),
        pc.not_equal(joined["also"], joined["variant"]),
    )
    early = pc.less(joined["first_day"], start)
    reason = pc.if_else(
        pc.fill_null(other, False), TWO_VARIANTS, pc.if_else(early, TOO_EARLY, None)
    )
    met = pc.max_element_wise(joined["exposed_on"], joined["since"], start, skip_nulls=True)
    # Nobody takes part who does not by the hash, whatever the log says.
    day = pc.if_else(pc.is_null(joined["exposed_on"]), None, met)
    columns = [joined["experiment"], joined["user_id"], joined["variant"], day]
    return pa.table([*columns, reason.cast(pa.string())], names=table.column_names)


_LOG = pa.schema(
    [
        ("user_id", pa.string()), ("first_day", pa.date32()), ("since", pa.date32()),
        ("seen", pa.string()), ("also", pa.string()),
    ]
)  # fmt: skip


def _keep(request: Request, experiment: Experiment, exposed: pa.Table, listed: pa.Array) -> int:
    """Add who is not there yet, and move an exposure to an earlier day where late data says so.

    Who is on the list of excluded users is not added; who was there before does not count while
    the list has them. All of this can be done in any order and any number of times with the same
    result. A MERGE, not an overwrite: two dates that run at the same time must not lose each
    other's users.

    Returns:
        The Delta version that holds all of ``exposed``.
    """
    declared = tables(request.recipe)["exposures"]
    uri = table_uri(request.settings, request.recipe, "exposures")
    if open_table(uri) is not None:
        add_columns(uri, declared.arrow_schema(request.recipe))
    for attempt in range(_COMMIT_ATTEMPTS):
        table = open_table(uri) or DeltaTable.create(
            uri,
            schema=declared.arrow_schema(request.recipe),
            partition_by=list(declared.partition),
            mode="ignore",
        )
        news = _news(table, experiment, exposed, listed)
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
                .when_matched_update(
                    {
                        "exposed_on": "least(s.exposed_on, t.exposed_on)",
                        "excluded": f"coalesce(nullif(t.excluded, '{LISTED}'), s.excluded)",
                    }
                )
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


def _news(
    table: DeltaTable, experiment: Experiment, exposed: pa.Table, listed: pa.Array
) -> pa.Table:
    """The rows that the table must get: new, earlier, or excluded for another reason than now."""
    columns = exposed.column_names
    exposed = exposed.cast(pa.schema([(name, _EXPOSED[name]) for name in columns]))
    known = pa.table(table.scan(columns=columns, predicate=predicate(experiment=experiment.name)))
    was = {name: f"was_{name}" for name in columns if name != "user_id"}
    known = known.cast(exposed.schema).rename_columns([was.get(name, name) for name in columns])
    both = exposed.join(known, "user_id", join_type="full outer")
    is_listed = pc.is_in(both["user_id"], listed)
    is_known = pc.is_valid(both["was_exposed_on"])
    since = pc.min_element_wise(both["exposed_on"], both["was_exposed_on"])
    # That a user is listed may end; every other reason stays.
    stays = pc.if_else(pc.equal(both["was_excluded"], LISTED), None, both["was_excluded"])
    reason = pc.coalesce(stays, both["excluded"], pc.if_else(is_listed, LISTED, None))
    is_moved = pc.less(since, both["was_exposed_on"])
    is_judged_anew = pc.not_equal(pc.fill_null(reason, ""), pc.fill_null(both["was_excluded"], ""))
    is_news = pc.if_else(is_known, pc.or_(is_moved, is_judged_anew), pc.invert(is_listed))
    cells = {name: pc.coalesce(both[name], both[was[name]]) for name in was}
    cells |= {"user_id": both["user_id"], "exposed_on": since, "excluded": reason}
    rows = pa.table([cells[name] for name in columns], names=columns).cast(exposed.schema)
    return rows.filter(is_news).sort_by("user_id")


_EXPOSED = {
    "experiment": pa.string(), "user_id": pa.string(), "variant": pa.string(),
    "exposed_on": pa.date32(), "excluded": pa.string(),
}  # fmt: skip


def _exposed_by(request: Request, experiment: Experiment, version: int) -> pa.Table:
    """Rows of those who were in the experiment on the business date, whoever came later."""
    found = read(
        table_uri(request.settings, request.recipe, "exposures"),
        version=version,
        where=predicate(experiment=experiment.name, exposed_on=(experiment.start, request.date)),
    )
    return pa.table(found)
