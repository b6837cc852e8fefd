"""What a day's embeddings say of each user: a cohort, and whether they changed suddenly.

Bucket by bucket, today's rows beside those of ``compare_days`` before; what is usual is measured
on a sample of whole buckets. Memory does not grow with the number of users.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lumos.delta import open_table, predicate, read
from lumos.gone import VersionGone
from lumos.progress import progress
from lumos.serve import cohort_table
from lumos.serve.changes import Step, p_values
from lumos.serve.comparison import Pairs, Run, pairs, sample
from lumos.serve.metrics import Metric, write_metrics
from lumos.serve.pieces import Pieces
from lumos.serve.vectors import Floats, Stored
from lumos.verbs import TableWritten

log = logging.getLogger(__name__)

_MOST_SCORES = 1_000_000
# So many times the usual share of unusual changes, and the day itself is unusual.
_UNUSUAL = 3.0


@dataclass(frozen=True)
class Usual:
    """By which today's users are judged.

    Attributes:
        step: From the compared day to today; ``None`` without one.
        scores: What is usual, ascending: of earlier steps, or where there are none of this one.
        cutoff: What a score must exceed to be flagged.
    """

    step: Step | None
    scores: Floats
    cutoff: float


@dataclass(frozen=True)
class Counts:
    """Today's `profiles` in numbers; ``by_cohort`` has shape (K,)."""

    by_cohort: np.ndarray
    compared: int = 0
    unusual: int = 0
    flagged: int = 0


@dataclass(frozen=True)
class Made:
    """What the report says."""

    tables: tuple[TableWritten, ...]
    measured: TableWritten
    metrics: dict[str, float | None]
    details: dict[str, Any]


def profile(run: Run, today: Stored, pieces: Pieces) -> Made:
    """Write `profiles`, and `cohorts` when a model version is new.

    Args:
        run: What today is compared with.
        today: Today's embeddings, all there.
        pieces: Of `profiles`.
    """
    sampled = dict(sample(run, today))
    cohorts = cohort_table.find_cohorts(run, sampled)
    usual = _usual(run, pieces.uri, list(sampled.values()))
    done = pieces.done(run.buckets)
    with progress("profiling", len(run.buckets)) as advance:
        for bucket in run.buckets:
            if bucket not in done:
                found = pairs(run, today, bucket)
                rows = pieces.schema.empty_table()
                if found is not None:
                    columns = _judged(found, usual, run.config.anomaly_rate)
                    columns["cohort"] = cohorts.of(found.now.matrix_ND)
                    rows = _table(run, bucket, found.now.ids, columns, pieces.schema)
                pieces.store(bucket, rows, bucket=bucket)
            advance()
    pieces.clear_other_buckets(run.buckets)
    written = pieces.written(run.buckets)
    counts = _count(pieces, written.version, len(cohorts), run.config.anomaly_rate)
    measured = [*_metrics(run, usual, counts), *cohort_table.metrics(counts.by_cohort)]
    return Made(
        tables=(written, cohorts.written),
        measured=write_metrics(run.request, measured),
        metrics={metric.name: metric.value for metric in measured if metric.segment == "all"},
        details={
            "compared_with": str(run.compared.as_of) if run.compared else f"none: {run.why_not}",
            "num_earlier_days": len(run.earlier),
            "num_cohorts": run.config.num_cohorts,
            "cohorts": cohort_table.describe(run, sampled, cohorts, counts.by_cohort),
        },
    )


def _usual(run: Run, uri: str, sampled: list[Pairs]) -> Usual:
    nothing = Usual(None, np.zeros(0, np.float32), np.inf)
    known = [part for part in sampled if len(part.group_M)]
    if not known:
        return nothing
    step = Step.fit(
        np.concatenate([part.step_MD for part in known]),
        np.concatenate([part.group_M for part in known]),
    )
    earlier = _earlier_scores(run, uri)
    scores = earlier if len(earlier) else step.scores
    return Usual(step, scores, step.cutoff(run.config.anomaly_rate))


def _earlier_scores(run: Run, uri: str) -> Floats:
    """Of earlier steps, ascending; of a million users at most."""
    parts, num_scores = [np.zeros(0, np.float32)], 0
    for bucket in run.buckets:
        for entry in run.earlier:
            where = predicate(as_of=entry.business_date, bucket=bucket)
            try:
                rows = read(uri, version=entry.version, columns=["score"], where=where)
            except VersionGone as error:
                log.warning("%s is not compared with: %s", entry.business_date, error)
                rows = None
            if rows is not None:
                parts.append(rows["score"].drop_null().to_numpy())
                num_scores += len(parts[-1])
        if num_scores >= _MOST_SCORES:
            break
    return np.sort(np.concatenate(parts))


def _judged(found: Pairs, usual: Usual, rate: float) -> dict[str, Any]:
    """Change, score, p-value and verdict of users; null where there is nothing to compare."""
    shape, is_known = len(found.now), found.is_known_N
    cells = {name: np.zeros(shape, np.float32) for name in ("change", "score", "p_value")}
    is_anomaly = np.zeros(shape, bool)
    if usual.step is not None:
        change, score = usual.step.measure(found.step_MD, found.group_M)
        p = p_values(score, usual.scores)
        for cell, value in zip(cells.values(), (change, score, p), strict=True):
            cell[is_known] = value
        is_anomaly[is_known] = (p <= rate) & (score > usual.cutoff)
    masked = {name: pa.array(cell, pa.float32(), mask=~is_known) for name, cell in cells.items()}
    return {**masked, "is_anomaly": is_anomaly}


def _table(
    run: Run, bucket: int, ids: np.ndarray, columns: dict[str, Any], schema: pa.Schema
) -> pa.Table:
    same = {
        "as_of": run.request.date,
        "bucket": bucket,
        "model_version": run.model_version,
        "form": run.config.form,
    }
    cells = columns | {"user_id": ids}
    cells |= {name: pa.repeat(value, len(ids)) for name, value in same.items()}
    return pa.table([pa.array(cells[f.name]).cast(f.type) for f in schema], schema=schema)


def _count(pieces: Pieces, version: int, num_cohorts: int, rate: float) -> Counts:
    by_cohort = np.zeros(num_cohorts, np.int64)
    compared = unusual = flagged = 0
    table = open_table(pieces.uri, version)
    assert table is not None
    columns = ["cohort", "p_value", "is_anomaly"]
    asked = predicate(as_of=pieces.request.date)
    for batch in pa.RecordBatchReader.from_stream(table.scan(columns, asked)):
        by_cohort += np.bincount(batch["cohort"].to_numpy(), minlength=num_cohorts)
        p = batch["p_value"].drop_null().to_numpy()
        compared, unusual = compared + len(p), unusual + int((p <= rate).sum())
        flagged += batch["is_anomaly"].true_count
    return Counts(by_cohort, compared, unusual, flagged)


def _metrics(run: Run, usual: Usual, counts: Counts) -> list[Metric]:
    found = [
        Metric("num_users", float(counts.by_cohort.sum())),
        Metric("num_compared", float(counts.compared), message=run.why_not),
        Metric("num_anomalies", float(counts.flagged)),
    ]
    if usual.step is None:
        return found
    share = counts.unusual / max(counts.compared, 1)
    limit = _UNUSUAL * run.config.anomaly_rate
    is_unusual = bool(run.earlier) and share > limit
    message = f"more than {limit:g}: the day, not these users, is unusual" if is_unusual else ""
    return [
        *found,
        Metric("platform_shift", usual.step.shift),
        Metric(
            "unusual_share",
            share,
            verdict="warning" if is_unusual else "ok",
            message=message,
        ),
    ]
