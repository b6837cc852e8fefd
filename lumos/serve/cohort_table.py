"""Cohorts of a model version as they are kept, and what their members are like.

Shape suffixes: N users, D width of an embedding, K cohorts, U activity columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos import ledger
from lumos.accio.users import Users
from lumos.dates import day_number
from lumos.delta import open_table, predicate, read, replace
from lumos.serve.cohorts import fit_centroids, matched, nearest
from lumos.serve.comparison import Pairs, Run
from lumos.serve.metrics import Metric
from lumos.serve.vectors import RECENT_DAYS, Floats, list_array, matrix_of
from lumos.tables import table_uri, tables
from lumos.verbs import TableWritten


@dataclass(frozen=True)
class Cohorts:
    """Centroids in the order of their numbers, where they stand, and today's mean embedding.

    Users are grouped by where they stand to the mean of the day: what a day does to everybody,
    such as a match, or its weekday, puts nobody into another cohort.
    """

    centroids_KD: Floats
    written: TableWritten
    centre_D: Floats

    def __len__(self) -> int:
        return len(self.centroids_KD)

    def of(self, vectors_ND: Floats) -> np.ndarray:
        """The cohort of each user, int64 of shape (N,)."""
        return nearest(vectors_ND - self.centre_D, self.centroids_KD)


def find_cohorts(run: Run, sampled: Mapping[int, Pairs]) -> Cohorts:
    """Those of the model version; fitted on today's users if it has none yet.

    Args:
        run: Of today.
        sampled: Today's users of some buckets.
    """
    uri = table_uri(run.request.settings, run.request.recipe, "cohorts")
    where = predicate(
        model_version=run.model_version, form=run.config.form, num_cohorts=run.config.num_cohorts
    )
    kept = read(uri, where=where)
    known = [part.now.matrix_ND for part in sampled.values()]
    centre_D = np.concatenate(known).mean(axis=0) if known else np.zeros(0, np.float32)
    if kept is not None and kept.num_rows:
        kept = kept.sort_by("cohort")
        table = open_table(uri)
        assert table is not None
        version = table.version()
    else:
        kept = _fitted(run, sampled, centre_D)
        version = replace(uri, kept, where=where)
    written = TableWritten(table="cohorts", version=version, rows=kept.num_rows)
    return Cohorts(matrix_of(kept["centroid"]), written, centre_D)


def _fitted(run: Run, sampled: Mapping[int, Pairs], centre_D: Floats) -> pa.Table:
    schema = tables(run.request.recipe)["cohorts"].arrow_schema(run.request.recipe)
    if not sampled:
        return schema.empty_table()
    vectors_ND = np.concatenate([part.now.matrix_ND for part in sampled.values()]) - centre_D
    ids = np.concatenate([part.now.ids for part in sampled.values()])
    centroids_KD = fit_centroids(vectors_ND, run.config.num_cohorts)
    num = len(centroids_KD)
    earlier = _earlier(run, list(sampled))
    centroids_KD = centroids_KD[matched(nearest(vectors_ND, centroids_KD), earlier, ids, num)]
    same = {
        "model_version": run.model_version,
        "form": run.config.form,
        "num_cohorts": run.config.num_cohorts,
        "fitted_on": run.request.date,
        "num_users": len(ids),
    }
    cells = {name: pa.repeat(value, num) for name, value in same.items()}
    cells |= {"cohort": pa.array(range(num)), "centroid": list_array(centroids_KD)}
    return pa.table([cells[f.name].cast(f.type) for f in schema], schema=schema)


def _earlier(run: Run, buckets: list[int]) -> dict[str, int]:
    """Cohort of users on the last day before, whatever model said so; by id."""
    request = run.request
    known = [
        entry
        for entry in ledger.entries(request.settings, request.recipe, "profiles")
        if entry.business_date < request.date
        and entry.verdict == ledger.READY
        and entry.report.details.get("num_cohorts") == run.config.num_cohorts
    ]
    if not known:
        return {}
    rows = read(
        table_uri(request.settings, request.recipe, "profiles"),
        version=known[-1].version,
        columns=["user_id", "cohort"],
        where=predicate(as_of=known[-1].business_date),
    )
    if rows is None:
        return {}
    return dict(zip(rows["user_id"].to_pylist(), rows["cohort"].to_pylist(), strict=True))


def metrics(by_cohort: np.ndarray) -> list[Metric]:
    """How many users each cohort has."""
    return [
        Metric("cohort_users", float(number), segment=str(cohort))
        for cohort, number in enumerate(by_cohort.tolist())
    ]


def describe(
    run: Run, sampled: Mapping[int, Pairs], cohorts: Cohorts, by_cohort: np.ndarray
) -> list[dict[str, float]]:
    """Size of each cohort and its members' mean activity in the last 28 days, of the sample."""
    names = [column.name for column in run.request.recipe.activity]
    num = len(cohorts)
    users_K, active_K, sums_KU = np.zeros(num), np.zeros(num), np.zeros((num, len(names)))
    for bucket, part in sampled.items():
        cohort = cohorts.of(part.now.matrix_ND)
        users_K += np.bincount(cohort, minlength=num)
        active_K += np.bincount(cohort, part.now.num_active_days, minlength=num)
        for group in run.buckets[bucket]:
            sums_KU += _sums(run, run.sequences.read(group), part.now.ids, cohort, num)
    size_K = np.maximum(users_K, 1)
    return [
        {
            "cohort": k,
            "users": int(by_cohort[k]),
            "active_days": round(float(active_K[k] / size_K[k]), 2),
            **{name: round(float(sums_KU[k, u] / size_K[k]), 2) for u, name in enumerate(names)},
        }
        for k in range(num)
    ]


def _sums(run: Run, users: Users, ids: np.ndarray, cohort_N: np.ndarray, num: int) -> np.ndarray:
    """Activity of a row group's users in the last 28 days, summed by cohort, shape (K, U)."""
    last = day_number(run.request.date)
    place = pc.index_in(pa.array(users.user_id), pa.array(ids)).fill_null(-1).to_numpy()
    is_counted = (users.days <= last) & (users.days > last - RECENT_DAYS)
    is_counted &= place[users.owner] >= 0
    cohort = cohort_N[place[users.owner[is_counted]]]
    sums = [np.bincount(cohort, c[is_counted], minlength=num) for c in users.columns]
    return np.stack(sums, axis=1)
