"""The verb ``measure``: what each variant did since exposure, and whether they differ.

Late data changes days that were measured before, so each run writes every day of the experiment
so far. A broken split is recorded as critical rather than refused: somebody has to look at it,
and hiding the numbers would not help them.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lumos import ledger
from lumos.config import Experiment
from lumos.delta import open_table, predicate, replace
from lumos.experiment.assignment import no_experiments, running
from lumos.experiment.effects import METRICS, SIMULATED_SPLIT, Effect
from lumos.experiment.outcomes import Measured, measured, pinned_views
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, Report, Request, TableWritten

log = logging.getLogger(__name__)


def measure(request: Request) -> Report:
    """Write the outcomes of each running experiment so far, and the effects as of the date.

    Raises:
        BadInput: An unknown experiment, one that has not started, a table that is not ready, or
            a variant without users.
    """
    experiments = running(request)
    if not experiments:
        return request.report(details={"note": no_experiments(request.recipe)})
    versions = _pinned(request)
    inputs: dict[str, int | str] = dict(versions)
    if done := ledger.already_done(request, "effects", inputs):
        return done
    _check_start(request, experiments, versions["activity"])
    with pinned_views(request, versions) as spark:
        found = [measured(spark, request, experiment) for experiment in experiments]
    metrics = {item.experiment.name: _metric_rows(request, item) for item in found}
    written = (
        _write_outcomes(request, found, versions["activity"]),
        _write_effects(request, found),
    )
    _write_metrics(request, metrics)
    report = request.report(
        tables=written,
        metrics={
            f"{name}.{row['name']}": row["value"] for name, rows in metrics.items() for row in rows
        },
        details={
            "experiments": [item.experiment.name for item in found],
            "notes": [note for item in found for note in _notes(request, item)],
        },
    )
    first = min(experiment.start for experiment in experiments)
    return ledger.record(request, report, inputs=inputs, first_day=first)


def _pinned(request: Request) -> dict[str, int]:
    remedies = {
        "activity": f"Run lumos aggregate --date {request.date} first.",
        "exposures": f"Run lumos assign --date {request.date} first.",
    }
    return {
        table: ledger.require(
            request.settings, request.recipe, table, request.date, remedy=remedy
        ).version
        for table, remedy in remedies.items()
    }


def _check_start(request: Request, experiments: Sequence[Experiment], version: int) -> None:
    """Activity that begins after an experiment does would make its first days look empty."""
    table = open_table(table_uri(request.settings, request.recipe, "activity"), version)
    days = pa.table(table.get_add_actions(flatten=True))["partition.day"] if table else []
    begins = pc.min(pc.cast(days, pa.date32())).as_py() if len(days) else None
    late = [item for item in experiments if begins is None or item.start < begins]
    if late:
        num_days = (request.date - min(item.start for item in late)).days + 1
        msg = (
            f"activity of recipe {request.recipe.name} begins on {begins}, but experiment "
            f"{late[0].name} started on {late[0].start}. Run lumos aggregate "
            f"--date {request.date} --days {num_days} (or more), then lumos measure again."
        )
        raise BadInput(msg)


def _write_outcomes(request: Request, found: Sequence[Measured], activity: int) -> TableWritten:
    uri = table_uri(request.settings, request.recipe, "outcomes")
    versions = []
    for item in found:
        name = item.experiment.name
        kept = _measured_from_later_data(request, name, activity)
        if kept is not None:
            log.info("outcomes of %s stay as measured on %s", name, kept.business_date)
            versions.append(kept.version)
            continue
        versions.append(
            replace(
                uri,
                item.outcomes,
                where=predicate(experiment=name, day=(item.experiment.start, request.date)),
                partition=tables(request.recipe)["outcomes"].partition,
            )
        )
    rows = sum(item.outcomes.num_rows for item in found)
    return TableWritten(table="outcomes", version=max(versions), rows=rows)


def _measured_from_later_data(
    request: Request, experiment: str, activity: int
) -> ledger.Entry | None:
    """A later date's run has written the same days from the same or newer activity.

    So an older date that is run again does not put back what was known before the late data.
    """
    for entry in ledger.entries(request.settings, request.recipe, "outcomes"):
        is_later = entry.business_date > request.date
        is_ours = experiment in entry.report.details["experiments"]
        if is_later and is_ours and int(entry.inputs["activity"]) >= activity:
            return entry
    return None


def _write_effects(request: Request, found: Sequence[Measured]) -> TableWritten:
    declared = tables(request.recipe)["effects"]
    uri = table_uri(request.settings, request.recipe, "effects")
    version, rows = 0, 0
    for item in found:
        effects = [_effect_row(request, item, *key) for key in item.effects]
        version = replace(
            uri,
            pa.Table.from_pylist(effects, schema=declared.arrow_schema(request.recipe)),
            where=predicate(experiment=item.experiment.name, as_of=request.date),
            partition=declared.partition,
        )
        rows += len(effects)
    return TableWritten(table="effects", version=version, rows=rows)


def _effect_row(request: Request, item: Measured, metric: str, variant: str) -> dict[str, Any]:
    control = item.experiment.variants[0].name
    fields = dataclasses.asdict(item.effects[metric, variant])
    return {
        "experiment": item.experiment.name,
        "as_of": request.date,
        "metric": metric,
        "variant": variant,
        "control": item.samples[control][metric].mean,
        "treatment": item.samples[variant][metric].mean,
        "effect_low": fields.pop("low"),
        "effect_high": fields.pop("high"),
        **fields,
        "num_control": item.num_users(control),
        "num_treatment": item.num_users(variant),
        "srm_p_value": item.srm_p_value,
    }


def _write_metrics(request: Request, metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    declared = tables(request.recipe)["metrics"]
    for name, rows in metrics.items():
        replace(
            table_uri(request.settings, request.recipe, "metrics"),
            pa.Table.from_pylist(list(rows), schema=declared.arrow_schema(request.recipe)),
            where=predicate(job="measure", day=request.date, segment=name),
            partition=declared.partition,
        )


def _metric_rows(request: Request, item: Measured) -> list[dict[str, Any]]:
    common = {"day": request.date, "job": "measure", "segment": item.experiment.name}

    def row(name: str, value: float | None, message: str, verdict: str = "info") -> dict[str, Any]:
        return {**common, "name": name, "value": value, "verdict": verdict, "message": message}

    verdict = "critical" if item.is_split_broken else "ok"
    rows = [row("srm_p_value", item.srm_p_value, _split_sentence(item), verdict)]
    for variant, samples in item.samples.items():
        rows.append(row(f"num_users.{variant}", float(item.num_users(variant)), "users exposed"))
        rows += [
            row(f"{metric}.{variant}", sample.mean, METRICS[metric])
            for metric, sample in samples.items()
        ]
    control = item.experiment.variants[0].name
    rows += [
        row(f"{metric}.{variant}.effect", effect.effect, _sentence(effect, variant, control))
        for (metric, variant), effect in item.effects.items()
    ]
    return rows


def _sentence(effect: Effect, variant: str, control: str) -> str:
    text = f"{variant} - {control} = {effect.effect:.6g}"
    if effect.p_value is None:
        return f"{text}; without variance between users there is no interval and no p"
    text += f", interval {effect.low:.6g} .. {effect.high:.6g}, p {effect.p_value:.4g}"
    if effect.relative is None:
        return f"{text}; {control} is 0, so there is no relative effect"
    return text


def _split_sentence(item: Measured) -> str:
    counts = ", ".join(f"{item.num_users(name)} {name}" for name in item.samples)
    if item.is_split_broken:
        return (
            f"sample ratio broken: {counts} are too far from the weights (p "
            f"{item.srm_p_value:.2g} < {item.experiment.srm_alpha:g}); believe no effect, and "
            "look for lost exposures first"
        )
    return f"split as planned: {counts} (p {item.srm_p_value:.2g})"


def _notes(request: Request, item: Measured) -> list[str]:
    experiment = item.experiment
    day = (request.date - experiment.start).days + 1
    notes = [f"{experiment.name}: day {day} of {experiment.planned_days} planned"]
    if experiment.is_simulated_split:
        notes.append(f"{experiment.name}: {SIMULATED_SPLIT}")
    if item.is_split_broken:
        notes.append(f"{experiment.name}: {_split_sentence(item)}")
    return notes
