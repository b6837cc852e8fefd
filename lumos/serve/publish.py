"""The verb ``publish``: calibrate a day's forecasts, judge them, and commit them once.

Read shard by shard, staged in files that nobody sees, judged, committed in one Delta version, read
back and checked, and only then named by a manifest row: a consumer
(:func:`~lumos.serve.manifest.read_scores`) sees a whole publication or none, whenever this process
dies and whoever publishes at the same moment.
"""

import datetime as dt
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from lumos import ledger
from lumos.accio.storage import filesystem_of, patiently
from lumos.accio.table import Columns, SequenceTable
from lumos.delta import DataFile, data_files, open_table, rewrite
from lumos.progress import progress
from lumos.serve.calibrate import (
    Calibration,
    Evaluated,
    cross_fitted_error,
    fit,
    read_evaluated,
)
from lumos.serve.gate import Measures, recent, verdicts
from lumos.serve.inputs import is_active
from lumos.serve.manifest import (
    LIVE,
    RETRACTED,
    SUPERSEDED,
    Checksum,
    Manifest,
    TamperedScores,
    manifests_of,
    published,
    read_manifests,
    read_scores,
    refuse_future,
)
from lumos.serve.metrics import Metric, write_metrics
from lumos.serve.rolls import Roll, compare
from lumos.serve.stage import forecast_columns, stage, whole_users
from lumos.serve.staging import Staging, claimed
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, GateRefused, Report, Request, TableWritten

__all__ = ["publish", "read_scores", "table_of"]

log = logging.getLogger(__name__)

_BATCH_ROWS = 2**18


@dataclass(frozen=True)
class Job:
    """What a publication is made from."""

    request: Request
    forecasts: ledger.Entry
    evaluated: Evaluated
    calibration: Calibration

    @property
    def inputs(self) -> dict[str, int | str]:
        """What the ledger compares a rerun by."""
        return {"forecasts": self.forecasts.version, "calibrator": self.calibration.version}

    @property
    def pinned(self) -> str:
        """All tables behind the publication, as JSON for its manifest."""
        made_from = {
            **self.forecasts.inputs,
            "forecasts": self.forecasts.version,
            "evaluations_as_of": self.evaluated.as_of.isoformat(),
        }
        return json.dumps(made_from, sort_keys=True)


@dataclass
class Staged:
    """What is known of the files that are about to be published."""

    checksum: Checksum
    measures: Measures = field(default_factory=Measures)


def publish(request: Request) -> Report:
    """Publish the scores of ``--date``.

    Raises:
        BadInput: No forecasts for the date, or their model version has no evaluation, or the date
            or a live manifest lies in the future.
        GateRefused: Rows are missing, unusual or out of range, or the calibration is off; nothing
            was published, and ``metrics`` says what was measured. Or the date was retracted.
    """
    settings, recipe, date = request.settings, request.recipe, request.date
    forecasts = ledger.require(
        settings, recipe, "forecasts", date, remedy=f"Run `lumos score --date {date}` first."
    )
    _require_quality(request)
    manifests = read_manifests(settings, recipe)
    refuse_future(recipe, manifests, date)
    _refuse_retracted(request, manifests)
    evaluated = read_evaluated(settings, recipe, str(forecasts.inputs["model"]), date)
    job = Job(request, forecasts, evaluated, fit(recipe, evaluated))
    if done := ledger.already_done(request, "scores", job.inputs):
        return done
    with claimed(request) as staging, tempfile.TemporaryDirectory(prefix="lumos-publish-") as at:
        staged = Staged(Checksum(recipe))
        measured = _judge(job, staging, staged, manifests, Path(at))
        calibrator = job.calibration.store(settings, recipe)
        written = _announce(job, staging, staged)
    report = request.report(
        tables=(*written, write_metrics(request, measured)),
        metrics={metric.name: metric.value for metric in measured},
        details={
            "model_version": job.calibration.model_version,
            "calibrator_version": job.calibration.version,
            "calibrator": calibrator,
        },
    )
    return ledger.record(request, report, inputs=job.inputs, tables_written=written)


def _require_quality(request: Request) -> None:
    date = request.date
    ledger.require(
        request.settings,
        request.recipe,
        "quality",
        date,
        remedy=f"Run `lumos validate --date {date}` and look at its metrics.",
    )


def _refuse_retracted(request: Request, manifests: Iterable[Manifest]) -> None:
    of_date = [manifest for manifest in manifests if manifest.as_of == request.date]
    if of_date and of_date[-1].state == RETRACTED and not request.force:
        msg = (
            f"the scores of {request.date} were published and taken back ({of_date[-1].reason}); "
            f"to publish them again on purpose: `lumos publish --date {request.date} --force`"
        )
        raise GateRefused(msg)


def _judge(
    job: Job, staging: Staging, staged: Staged, manifests: list[Manifest], scratch: Path
) -> list[Metric]:
    """Stage everything, and let the gate decide; a refusal is recorded in `metrics` as well.

    Raises:
        GateRefused: Names everything that is wrong.
    """
    request, recipe = job.request, job.request.recipe
    scored, active = Roll(scratch / "scored"), Roll(scratch / "active")
    _stage(job, staging, staged, scored)
    _call_active(request, int(job.forecasts.inputs["sequences"]), active)
    measured = verdicts(
        recipe,
        staged.measures,
        compare(active, scored),
        {task.name: cross_fitted_error(task, job.evaluated) for task in recipe.tasks},
        job.calibration.model_version,
        recent(manifests, request.date),
    )
    for metric in measured:
        if metric.verdict == "warning":
            log.warning("%s", metric.message)
    if wrong := [metric.message for metric in measured if metric.verdict == "critical"]:
        write_metrics(request, measured)
        raise GateRefused("nothing was published: " + "; ".join(wrong))
    log.info("the gate let %d scores pass", staged.measures.num_rows)
    return measured


def _stage(job: Job, staging: Staging, staged: Staged, scored: Roll) -> None:
    """Write the scores of each shard of the forecasts to a file, and measure them on the way."""
    request = job.request
    shards = _shards(job)
    with progress("staging", len(shards)) as advance:

        def parts(files: list[DataFile]) -> Iterator[pa.Table]:
            for days in whole_users(_batches(job, files)):
                part = stage(request.recipe, request.date, days, job.calibration)
                staged.measures.add(request.recipe, part)
                staged.checksum.add(part.rows)
                scored.add(part.rows["user_id"].combine_chunks())
                yield part.rows

        for shard, files in shards.items():
            staging.write(shard, parts(files))
            log.info("shard %d of %d is staged", shard + 1, len(shards))
            advance()


def _shards(job: Job) -> dict[int, list[DataFile]]:
    """The date's files of `forecasts` at the pinned version, from the log alone."""
    request = job.request
    uri = table_uri(request.settings, request.recipe, "forecasts")
    table = open_table(uri, job.forecasts.version)
    if table is None:
        msg = f"the forecasts table is gone; run `lumos score --date {request.date} --force`"
        raise BadInput(msg)
    shards: dict[int, list[DataFile]] = {}
    for file in sorted(data_files(table), key=lambda file: file.path):
        if file.partition["as_of"] == request.date:
            shards.setdefault(int(file.partition["shard"]), []).append(file)
    return dict(sorted(shards.items()))


def _batches(job: Job, files: list[DataFile]) -> Iterator[pa.Table]:
    request = job.request
    uri = table_uri(request.settings, request.recipe, "forecasts")
    system, prefix = filesystem_of(uri)
    for file in files:
        path = f"{uri.removeprefix(prefix)}/{file.path}"
        with patiently(lambda path=path: ParquetFile(path, filesystem=system), path) as parquet:  # type: ignore[misc]
            names = [n for n in forecast_columns(request.recipe) if n in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
                yield pa.Table.from_batches([batch])


def _call_active(request: Request, sequences_version: int, active: Roll) -> None:
    """Who should have a score: found anew, not taken from the scorer."""
    recipe, date = request.recipe, request.date
    uri = table_uri(request.settings, recipe, "sequences")
    try:
        table = SequenceTable.open(uri, Columns(activity=()), sequences_version)
    except BadInput as error:
        msg = (
            f"{error}. The forecasts were made from it: run `lumos sequences --date {date}` and "
            f"`lumos score --date {date} --force`, and then this again"
        )
        raise BadInput(msg) from error
    for users in table.users():
        ours = is_active(users, request.date, recipe.scoring.active_within_days)
        active.add(pa.array(users.user_id[ours], pa.string()))


def _announce(job: Job, staging: Staging, staged: Staged) -> tuple[TableWritten, ...]:
    """Scores in one commit, read back and checked; then the manifest that makes them public.

    Where the very same is public already, nothing is touched.
    """
    request, settings, recipe = job.request, job.request.settings, job.request.recipe
    manifest = Manifest(
        as_of=request.date,
        scores_version=-1,
        state=LIVE,
        num_rows=staged.checksum.num_rows,
        columns=staged.checksum.columns,
        checksum=staged.checksum.value,
        model_version=job.calibration.model_version,
        calibrator_version=job.calibration.version,
        inputs=job.pinned,
        spread=staged.measures.spread_json(),
        created=dt.datetime.now(dt.UTC),
        valid_until=request.date + dt.timedelta(days=recipe.publishing.valid_days),
    )
    standing = _standing(job, manifest)
    if standing is not None:
        log.info("the same scores of %s are public already, at version %d", *standing)
        version, manifests = standing[1], _version_of(request)
    else:
        version = staging.commit()
        log.info("committed scores of %s, version %d", request.date, version)
        manifest = Manifest.model_validate({**manifest.model_dump(), "scores_version": version})
        for _ in published(settings, recipe, manifest):
            pass  # a fault here leaves a commit that no manifest names
        manifests = rewrite(*table_of(request), lambda rows: _with(rows, manifest))
        log.info("published %d scores of %s", manifest.num_rows, request.date)
    return (
        TableWritten(table="scores", version=version, rows=manifest.num_rows),
        TableWritten(table="manifests", version=manifests, rows=1),
    )


def _standing(job: Job, wanted: Manifest) -> tuple[dt.date, int] | None:
    """Date and version of a live publication of just the same, if its rows are all right."""
    request = job.request
    for manifest in read_manifests(request.settings, request.recipe):
        same = ("as_of", "state", "num_rows", "columns", "checksum", "valid_until")
        if any(getattr(manifest, name) != getattr(wanted, name) for name in same):
            continue
        try:
            for _ in published(request.settings, request.recipe, manifest):
                pass
        except TamperedScores as error:
            log.warning("published anew: %s", error)
        else:
            return manifest.as_of, manifest.scores_version
    return None


def table_of(request: Request) -> tuple[str, pa.Schema]:
    """Where `manifests` lies, and its schema."""
    schema = tables(request.recipe)["manifests"].arrow_schema(request.recipe)
    return table_uri(request.settings, request.recipe, "manifests"), schema


def _version_of(request: Request) -> int:
    table = open_table(table_of(request)[0])
    return table.version() if table is not None else 0


def _with(rows: pa.Table, new: Manifest) -> pa.Table:
    """All manifests and a new one, which is live unless a newer version of its date is there."""
    found = [m.model_dump() for m in manifests_of(rows)] + [new.model_dump()]
    of_date = [m for m in found if m["as_of"] == new.as_of and m["state"] == LIVE]
    newest = max(m["scores_version"] for m in of_date)
    for manifest in of_date:
        manifest["state"] = LIVE if manifest["scores_version"] == newest else SUPERSEDED
    return pa.Table.from_pylist(found, schema=rows.schema)
