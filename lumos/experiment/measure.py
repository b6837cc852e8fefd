"""The verb ``measure``: what each variant did since exposure, and what may be said of it today.

Late data changes days that were measured before, so each run writes every day of the experiment
so far. What was *shown* on a morning stays: the table `looks` only grows, and a date that comes
after a later one has looked takes no look of its own. A broken split is recorded as critical
rather than refused, and no effect is written: the counts say where to look.
"""

import datetime as dt
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lumos import ledger
from lumos.delta import open_table, predicate, read, replace
from lumos.experiment.declaration import ALL, Experiment, nothing_runs, running
from lumos.experiment.effects import SIMULATED_SPLIT
from lumos.experiment.faults import Faults
from lumos.experiment.figures import Figure, figure, write_figures
from lumos.experiment.held import digest, hold
from lumos.experiment.judge import Judged, Row, judged
from lumos.experiment.reduce import reduced
from lumos.experiment.sums import Reduced
from lumos.experiment.views import pinned, pinned_views, publication
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, Report, Request, TableWritten

log = logging.getLogger(__name__)

_Found = tuple[Reduced, Judged]


def measure(request: Request) -> Report:
    """Write outcomes, sums, effects and the look of the date for each running experiment.

    Raises:
        BadInput: An unknown experiment, one that does not run on the date or whose file has
            changed, a table that is not ready, or a metric at fault. What is wrong with one
            experiment is raised when all others are done.
    """
    faults = Faults()
    experiments = faults.sound(running(request, faults), partial(_as_declared, request))
    if not experiments:
        faults.refuse(())
        return request.report(details={"note": nothing_runs(request)})
    needed = ["activity", "exposures"]
    needed += ["users"] if any(experiment.segments for experiment in experiments) else []
    versions = pinned(request, needed)
    experiments = _started(request, experiments, versions["activity"], faults)
    experiments = _assigned(request, experiments, faults)
    publications = {item.name: publication(request, item, item.start) for item in experiments}
    inputs: dict[str, int | str] = {
        **versions,
        "experiments": digest(request, experiments),
        **{f"scores.{name}": row["scores_version"] for name, row in publications.items() if row},
    }
    if done := ledger.already_done(request, "effects", inputs | faults.inputs()):
        faults.refuse(done.details["experiments"])
        return done
    found = _measured(request, experiments, versions, publications, faults)
    if not found:
        faults.refuse(())
    written = (
        _write_outcomes(request, found, versions["activity"]),
        _write(request, "moments", [(sums, _moment_rows(sums, request)) for sums, _ in found]),
        _write(request, "effects", [(sums, one.effects) for sums, one in found]),
        _add_looks(request, found, inputs),
    )
    figures = {sums.experiment.name: _figures(sums, one) for sums, one in found}
    for sums, _ in found:
        write_figures(request, sums.experiment, figures[sums.experiment.name])
    report = request.report(
        tables=written,
        metrics={
            f"{name}.{row['name']}": row["value"] for name, rows in figures.items() for row in rows
        },
        details={
            "experiments": list(figures),
            "notes": [note for sums, one in found for note in _notes(request, sums, one)],
        },
    )
    first = min(sums.experiment.start for sums, _ in found)
    ledger.record(request, report, inputs=inputs | faults.inputs(), first_day=first)
    faults.refuse(list(figures))
    return report


def _as_declared(request: Request, experiment: Experiment) -> None:
    hold(request, experiment)
    # All files that it names are there.
    digest(request, [experiment])


def _measured(
    request: Request,
    experiments: Sequence[Experiment],
    versions: Mapping[str, int],
    publications: Mapping[str, Mapping[str, Any] | None],
    faults: Faults,
) -> list[_Found]:
    if not experiments:
        return []
    found: list[_Found] = []
    # A metric is added up twice: over the days since exposure, and over those before.
    passes = 2 * sum(len(experiment.metrics) for experiment in experiments)
    # Of a year's table an experiment reads weeks, which compiled queries are not worth.
    first_day = min(item.start - dt.timedelta(days=item.pre_days) for item in experiments)
    with pinned_views(request, versions, passes=passes, first_day=first_day) as spark:
        for experiment in experiments:
            with faults.kept():
                sums = reduced(spark, request, experiment, publications[experiment.name])
                found.append((sums, judged(sums, request.date, _looks(request, experiment))))
    return found


def _looks(request: Request, experiment: Experiment) -> list[dict[str, Any]]:
    rows = read(
        table_uri(request.settings, request.recipe, "looks"),
        where=predicate(experiment=experiment.name),
    )
    return [] if rows is None else list(rows.to_pylist())


def _started(
    request: Request, experiments: Sequence[Experiment], version: int, faults: Faults
) -> tuple[Experiment, ...]:
    """Activity that begins after an experiment does would make its first days look empty."""
    table = open_table(table_uri(request.settings, request.recipe, "activity"), version)
    days = pa.table(table.get_add_actions(flatten=True))["partition.day"] if table else []
    begins = pc.min(pc.cast(days, pa.date32())).as_py() if len(days) else None

    def check(experiment: Experiment) -> None:
        if begins is not None and begins <= experiment.start:
            return
        num_days = (request.date - experiment.start).days + 1
        msg = (
            f"activity of recipe {request.recipe.name} begins on {begins}, but experiment "
            f"{experiment.name} started on {experiment.start}. Run lumos aggregate "
            f"--date {request.date} --days {num_days} (or more), then lumos measure again"
        )
        raise BadInput(msg)

    return faults.sound(experiments, check)


def _assigned(
    request: Request, experiments: Sequence[Experiment], faults: Faults
) -> tuple[Experiment, ...]:
    """Without those that `assign` had a fault with: their users are not those of the date."""
    entry = ledger.find(request.settings, request.recipe, "exposures", request.date)
    if entry is None or "faults" not in entry.inputs:
        return tuple(experiments)
    done = entry.report.details["experiments"]

    def check(experiment: Experiment) -> None:
        if experiment.name not in done:
            msg = (
                f"experiment {experiment.name} was not assigned for {request.date}: see why with "
                f"lumos assign --date {request.date} --experiment {experiment.name}"
            )
            raise BadInput(msg)

    return faults.sound(experiments, check)


def _write_outcomes(request: Request, found: Sequence[_Found], activity: int) -> TableWritten:
    uri = table_uri(request.settings, request.recipe, "outcomes")
    versions = []
    for sums, _ in found:
        name = sums.experiment.name
        kept = _measured_from_later_data(request, name, activity)
        if kept is not None:
            log.info("outcomes of %s stay as measured on %s", name, kept.business_date)
            versions.append(kept.version)
            continue
        versions.append(
            replace(
                uri,
                sums.outcomes,
                where=predicate(experiment=name, day=(sums.experiment.start, request.date)),
                partition=tables(request.recipe)["outcomes"].partition,
            )
        )
    rows = sum(sums.outcomes.num_rows for sums, _ in found)
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


def _write(
    request: Request, name: str, found: Sequence[tuple[Reduced, Sequence[Row]]]
) -> TableWritten:
    """The date's rows of a table, in place of what an earlier run wrote for it."""
    declared = tables(request.recipe)[name]
    version, count = 0, 0
    for sums, rows in found:
        version = replace(
            table_uri(request.settings, request.recipe, name),
            pa.Table.from_pylist(list(rows), schema=declared.arrow_schema(request.recipe)),
            where=predicate(experiment=sums.experiment.name, as_of=request.date),
            partition=declared.partition,
        )
        count += len(rows)
    return TableWritten(table=name, version=version, rows=count)


def _moment_rows(sums: Reduced, request: Request) -> list[Row]:
    return [
        {
            "experiment": sums.experiment.name,
            "as_of": request.date,
            "metric": metric,
            "segment": segment,
            "variant": variant,
            "left": left,
            "right": right,
            "value": float(moments.matrix[i, j]),
        }
        for metric, by_segment in sums.moments.items()
        for segment, by_variant in by_segment.items()
        for variant, moments in by_variant.items()
        for i, left in enumerate(moments.names)
        for j, right in enumerate(moments.names)
        if i <= j
    ]


def _add_looks(
    request: Request, found: Sequence[_Found], inputs: Mapping[str, int | str]
) -> TableWritten:
    """Looks that were not taken before; those that were stay as they were shown."""
    declared = tables(request.recipe)["looks"]
    uri = table_uri(request.settings, request.recipe, "looks")
    for sums, one in found:
        rows = [{**row, "inputs": json.dumps(dict(inputs), sort_keys=True)} for row in one.looks]
        if rows:
            # Only rows of this date: a run of another date that ends first loses nothing.
            replace(
                uri,
                pa.Table.from_pylist(rows, schema=declared.arrow_schema(request.recipe)),
                where=predicate(experiment=sums.experiment.name, as_of=request.date),
                partition=declared.partition,
            )
    table = open_table(uri)
    taken = [
        row
        for sums, _ in found
        for row in _looks(request, sums.experiment)
        if row["as_of"] == request.date
    ]
    return TableWritten(table="looks", version=table.version() if table else 0, rows=len(taken))


def _figures(sums: Reduced, one: Judged) -> list[Figure]:
    verdict = "critical" if one.is_split_broken else "ok"
    found = [figure("srm_p_value", one.srm_p_value, _split_sentence(sums, one), verdict)]
    found += [
        figure(f"num_users.{variant}", float(count), "users who count")
        for variant, count in sums.counts.items()
    ]
    for reason, count in sums.excluded.items():
        text = f"{count:,} users do not count: {reason}"
        found.append(figure(f"excluded.{reason}", float(count), text, "warning"))
    if sums.num_rows_before:
        text = "days of activity between the start and a user's exposure, which count for nobody"
        found.append(figure("rows_before_exposure", float(sums.num_rows_before), text))
    found += [figure(f"missing.{n}", None, text, "warning") for n, text in enumerate(sums.missing)]
    for effect in one.effects:
        if effect["segment"] == ALL and effect["is_declared"]:
            name = f"{effect['metric']}.{effect['variant']}.effect"
            is_harm = (effect["metric"], effect["variant"]) in one.crossed
            text = _sentence(effect, sums.experiment.control, is_hidden=one.is_split_broken)
            if is_harm:
                text = f"guardrail {effect['metric']} is crossed: {text}"
            verdict = "critical" if is_harm else "info"
            found.append(figure(name, effect["effect"], text, verdict))
    return found


def _sentence(effect: Row, control: str, *, is_hidden: bool) -> str:
    if is_hidden:
        return "hidden: the split is broken, so no effect can be believed"
    if effect["effect"] is None:
        return "not known yet: no user has anything that the metric divides by"
    text = f"{effect['variant']} - {control} = {effect['effect']:.6g}"
    if effect["low"] is None:
        return f"{text}; without variance between users there is no interval and no p"
    text += f", {effect['rule']} interval {effect['low']:.6g} .. {effect['high']:.6g}"
    if effect["p_value"] is not None:
        text += f", p {effect['p_value']:.4g}"
    if effect["relative"] is None:
        return f"{text}; {control} is 0, so there is no relative effect"
    return text


def _split_sentence(sums: Reduced, one: Judged) -> str:
    counts = ", ".join(f"{count:,} {name}" for name, count in sums.counts.items())
    if one.is_split_broken:
        return (
            f"sample ratio broken: {counts} are too far from the weights (p "
            f"{one.srm_p_value:.2g} < {sums.experiment.srm_alpha:g}); believe no effect, and "
            "look for lost exposures first"
        )
    return f"split as planned: {counts} (p {one.srm_p_value:.2g})"


def _notes(request: Request, sums: Reduced, one: Judged) -> list[str]:
    experiment = sums.experiment
    notes = [f"day {experiment.day(request.date)} of {experiment.planned_days} planned"]
    if experiment.is_simulated_split:
        notes.append(SIMULATED_SPLIT)
    if one.is_split_broken:
        notes.append(_split_sentence(sums, one))
    notes += [f"{count:,} users do not count: {reason}" for reason, count in sums.excluded.items()]
    notes += [str(row["advice"]) for row in one.looks]
    return [f"{experiment.name}: {note}" for note in [*notes, *sums.missing]]
