"""The verb ``aggregate``: raw tables in, ``activity``, ``event_context`` and ``users`` out.

The initial load is this job with a longer window. Order: judge every raw row, run the three
SELECTs, check, and only then write; audit what was written; and only then call it ready.
"""

import datetime as dt
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lumos import ledger
from lumos.aggregate import contract, facts, write
from lumos.aggregate.activity import check_conservation, raw_rows_by_day
from lumos.aggregate.facts import COUNTED, EARLIER, Days
from lumos.aggregate.landed import check_unchanged
from lumos.aggregate.opening import blaming, open_source
from lumos.aggregate.plan import SELECTS, Plan, Rows, make_plan
from lumos.aggregate.spark import spark_session
from lumos.aggregate.static import KNOWN_USERS, known_users
from lumos.delta import add_columns, predicate, read
from lumos.quality.validate import audit
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, GateRefused, Report, Request, TableWritten

# Of some 200 bytes each, in memory or, where that is full, on the local disk.
_MOST_KEPT_ROWS = 50_000_000

log = logging.getLogger(__name__)


def aggregate(request: Request) -> Report:
    """Aggregate the ``--days`` days up to ``--date`` again, as what had landed by then says.

    Raises:
        BadInput: A raw table or a SELECT is not as declared, or the date has no data.
        RawChanged: A raw file changed or vanished while it was read.
        GateRefused: The audit of the written rows failed; the tables hold what they held before.
    """
    plan = make_plan(request)
    done = ledger.already_done(plan.ledger_request(), "activity", plan.inputs)
    if done is not None and plan.was_done_as_wide():
        return done
    _refuse_gone(plan)
    for name in (*SELECTS, "quarantine"):
        write.ensure_table(request.settings, request.recipe, name)
    with (
        spark_session("lumos aggregate", num_rows=plan.num_rows) as spark,
        _local_time(spark, request.recipe.timezone),
    ):
        rows = Rows()
        try:
            with blaming(plan.sources):
                _judge(spark, plan, rows)
                _select(spark, plan, rows)
            for source in plan.sources.values():
                check_unchanged(source.uri, source.table, source.files)
            return _write(spark, plan, rows)
        finally:
            for name in (*plan.sources, KNOWN_USERS):
                spark.catalog.dropTempView(name)


def _refuse_gone(plan: Plan) -> None:
    """Refuse, before anything is written, what would leave later dates without their rows.

    Raises:
        BadInput: A version to put days back from is gone; names the command that needs none.
    """
    request, days = plan.request, plan.days
    for name in _tables_of(plan):
        later = _later(request, name)
        if lost := write.gone(request, name, days, later):
            newest = max(run.business_date for run in later)
            wide = (newest - days.first).days + 1
            msg = (
                f"{request.date} cannot be aggregated again: {newest} and other later dates know "
                f"its days better, and version {lost[0].version} of {name}, which has what "
                f"{lost[0].business_date} knows, is gone (Delta keeps old versions for 30 days). "
                "Nothing was changed. Aggregate all of it as the newest date knows it: `lumos "
                f"aggregate --date {newest} --days {wide} --force`"
            )
            raise BadInput(msg)


def _tables_of(plan: Plan) -> list[str]:
    return [table for table, select in SELECTS.items() if select in plan.texts]


def _later(request: Request, name: str) -> list[ledger.Entry]:
    runs = ledger.entries(request.settings, request.recipe, name)
    return [r for r in runs if r.verdict == ledger.READY and r.business_date > request.date]


@contextmanager
def _local_time(spark: SparkSession, timezone: str) -> Iterator[None]:
    """Let ``CAST(moment AS DATE)`` and ``HOUR(moment)`` mean the platform's own day and hour."""
    before = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", timezone)
    try:
        yield
    finally:
        spark.conf.set("spark.sql.session.timeZone", str(before))


def _judge(spark: SparkSession, plan: Plan, rows: Rows) -> None:
    """Judge all facts, make them views, and stop at a day that has none."""
    declared = {table.name: table for table in plan.request.recipe.raw}
    opened = {}
    for name, table in declared.items():
        if table.role == "fact":
            opened[name] = open_source(spark, plan.sources[name], plan.days)
            judged = facts.judge(opened[name], table, plan.days, plan.runs, repeated=False)
            rows.judged[name] = _by_user(judged, plan.sources[name].num_rows)
        elif any(contract.mentions(text, name) for text in plan.texts.values()):
            frame = open_source(spark, plan.sources[name], _until(plan))
            if table.landed_on:
                frame = frame.filter(F.col(table.landed_on) <= F.lit(plan.days.last))
            frame.createOrReplaceTempView(name)
    with_repeats = rows.count([declared[name] for name in rows.judged])
    for name in with_repeats:
        judged = facts.judge(opened[name], declared[name], plan.days, plan.runs, repeated=True)
        rows.judged[name] = _by_user(judged, plan.sources[name].num_rows)
    if with_repeats:
        rows.count([declared[name] for name in rows.judged])
    for name, judged in rows.judged.items():
        facts.accepted(judged).createOrReplaceTempView(name)
    said = ", ".join(f"{number} {name}" for name, number in rows.conservation().items())
    log.info("raw rows of %s .. %s: %s", plan.days.first, plan.days.last, said)
    if not rows.accepted_by_day[plan.days.last] and not plan.request.options["allow_empty"]:
        raise BadInput(_no_data(spark, plan))


def _by_user(judged: DataFrame, num_rows: int) -> DataFrame:
    """Dealt out by user, so that one shuffle serves all that a SELECT groups so.

    They are counted once, and read by each SELECT. So what is not too much to keep is read, judged
    and dealt out once; a table of more rows is read again each time, as many users may have it.
    """
    dealt = judged.repartition("user_id")
    return dealt.localCheckpoint() if num_rows <= _MOST_KEPT_ROWS else dealt


def _until(plan: Plan) -> Days:
    return Days(dt.date.min, plan.days.last)


def _no_data(spark: SparkSession, plan: Plan) -> str:
    newest = []
    for table in plan.request.recipe.raw:
        if table.role == "fact":
            landed = F.col(table.landed_on or str(table.happened_at)).cast("date")
            frame = open_source(spark, plan.sources[table.name], _until(plan)).agg(F.max(landed))
            newest += [row[0] for row in frame.collect() if row[0] is not None]
    date = plan.days.last
    return (
        f"no usable raw row of {plan.request.recipe.dataset} happened on {date}; the newest day "
        f"that has landed is {max(newest, default='none at all')}. Land {date} and run again, or "
        "add --allow-empty if nothing happened on that day (a public holiday, say)"
    )


def _select(spark: SparkSession, plan: Plan, rows: Rows) -> None:
    """Run the SELECTs and check their results; nothing is written before all is well."""
    request, recipe = plan.request, plan.request.recipe
    if contract.mentions(plan.texts["static"], KNOWN_USERS):
        before = known_users(spark, request.settings, recipe, plan.known)
        before.createOrReplaceTempView(KNOWN_USERS)
    files = {}
    for name, select in SELECTS.items():
        if select not in plan.texts:
            continue
        files[name] = contract.sql_path(request.settings, recipe, select)
        window = plan.window(name)
        arguments: dict[str, Any] = {"first_day": window.first, "last_day": window.last}
        result = contract.run_select(
            spark,
            plan.texts[select],
            arguments | dict(recipe.sql_parameters),
            table=tables(recipe)[name],
            file=files[name],
        )
        with contract.blaming(files[name]):
            # Run once here. A cache is not enough: a union of results does not always hit it.
            rows.results[name] = result.localCheckpoint()
    counted = raw_rows_by_day(rows.results["activity"]).select(
        F.lit("").alias("table"), F.col("day").cast("string").alias("what"), "num_rows"
    )
    found = [
        contract.findings(frame, tables(recipe)[name], recipe, _placed_in(plan, name))
        for name, frame in rows.results.items()
    ]
    counts: dict[str, dict[str, int]] = {name: {} for name in ("", *files)}
    for row in reduce(DataFrame.unionByName, [counted, *found]).collect():
        counts[row.table][row.what] = row.num_rows
    for name, file in files.items():
        rows.sizes[name] = counts[name].pop("rows")
        contract.refuse_faults(counts[name], file)
    by_day = {dt.date.fromisoformat(day): number for day, number in counts[""].items()}
    check_conservation(rows.accepted_by_day, by_day, files["activity"])


def _placed_in(plan: Plan, name: str) -> tuple[str, Days]:
    return write.DAY_COLUMN[name], plan.window(name)


def _write(spark: SparkSession, plan: Plan, rows: Rows) -> Report:
    """Quarantine, write, audit, put back what later dates know better, and enter the ledger."""
    request = plan.request
    # Only now: a SELECT that was refused shall leave no column behind.
    declared = tables(request.recipe)["activity"].arrow_schema(request.recipe)
    add_columns(table_uri(request.settings, request.recipe, "activity"), declared)
    _quarantine(spark, plan, rows)
    versions, before = {}, {name: write.newest_version(request, name) for name in SELECTS}
    for name in SELECTS:
        frame = rows.results.get(name)
        if frame is None:
            versions[name] = write.newest_version(request, name)
        else:
            size = rows.sizes[name]
            versions[name] = write.commit(frame, request, name, plan.window(name), num_rows=size)
    report = _report(plan, rows, versions)
    asked, first, inputs = plan.ledger_request(), plan.answers_from(), plan.inputs
    try:
        audit(
            spark,
            request,
            first_day=plan.days.first,
            versions=versions,
            conservation=rows.conservation(),
        )
    except GateRefused:
        _put_back(spark, plan, before, is_refused=True)
        ledger.record(asked, report, inputs=inputs, first_day=first, verdict=ledger.REFUSED)
        raise
    _put_back(spark, plan, before, is_refused=False)
    return ledger.record(asked, report, inputs=inputs, first_day=first)


def _put_back(
    spark: SparkSession, plan: Plan, before: Mapping[str, int], *, is_refused: bool
) -> None:
    """Give days back to the runs that know them: later ones, or, refused, all that are ready."""
    request = plan.request
    for table in _tables_of(plan):
        if not is_refused:
            runs = _later(request, table)
        else:
            runs = ledger.entries(request.settings, request.recipe, table)
        write.put_back(spark, request, table, plan.days, runs, before=before[table])
        if is_refused:
            for days in write.without_owner(plan.days, runs):
                write.remove(request, table, days)


def _quarantine(spark: SparkSession, plan: Plan, rows: Rows) -> None:
    """Write the rejected rows of the window, and keep what earlier runs rejected of their days."""
    request, days = plan.request, plan.days
    tables_of_facts = {table.name: table for table in request.recipe.raw}
    parts = [facts.rejected(frame, tables_of_facts[name]) for name, frame in rows.judged.items()]
    uri = table_uri(request.settings, request.recipe, "quarantine")
    conservation = rows.conservation()
    most = conservation["quarantined"] + conservation["counted_earlier"]
    unknown = Days(facts.UNKNOWN_DAY, facts.UNKNOWN_DAY)
    stored = [
        read(uri, columns=["num_rows"], where=predicate(job="aggregate", day=(d.first, d.last)))
        for d in (days, unknown)
    ]
    new = reduce(DataFrame.unionByName, parts)
    if conservation["counted_earlier"] and stored[0] is not None and stored[0].num_rows:
        new = new.unionByName(_rejected_before(spark, plan, rows, new))
    for window, old in zip((days, unknown), stored, strict=True):
        if most or (old is not None and old.num_rows):
            part = new.filter(window.hold(F.col("day")))
            write.commit(part, request, "quarantine", window, num_rows=most)


def _rejected_before(spark: SparkSession, plan: Plan, rows: Rows, new: DataFrame) -> DataFrame:
    """Quarantined rows whose day another run answers for: its verdict on them stands."""
    request = plan.request
    declared = {table.name: table for table in request.recipe.raw}
    key = ["day", "raw_table", "row"]
    covered = reduce(
        DataFrame.unionByName,
        (facts.rejected(f, declared[n], earlier=True) for n, f in rows.judged.items()),
    )
    uri = table_uri(request.settings, request.recipe, "quarantine")
    old = spark.read.format("delta").load(uri).filter(F.col("job") == "aggregate")
    old = old.join(covered.select(key), key, "left_semi").join(new.select(key), key, "left_anti")
    return old.select(new.columns)


def _report(plan: Plan, rows: Rows, versions: Mapping[str, int]) -> Report:
    request, days = plan.request, Days(plan.answers_from(), plan.request.date)
    written = []
    for name, version in versions.items():
        uri = table_uri(request.settings, request.recipe, name)
        window = days if name == "activity" else None
        num_rows = write.count_rows(uri, version, window)
        written.append(TableWritten(table=name, version=version, rows=num_rows))
    conservation = rows.conservation()
    empty = [
        str(day)
        for day in (plan.days.first + dt.timedelta(days=n) for n in range(plan.num_days))
        if not rows.accepted_by_day[day]
    ]
    reasons: Counter[str] = Counter()
    for (_, outcome), number in rows.by_outcome.items():
        if outcome not in (COUNTED, EARLIER):
            reasons[outcome] += number
    return request.report(
        tables=tuple(written),
        rows_rejected=conservation["quarantined"],
        metrics={f"raw_rows_{name}": float(value) for name, value in conservation.items()},
        details={
            "first_day": str(plan.days.first),
            "rejected": dict(sorted(reasons.items())),
            "empty_days": len(empty),
            "last_empty_days": empty[-10:],
            # `monitor` tells of these, and compares what each date's run saw.
            "late_rows": reasons[facts.LATE],
            "raw_schema": {name: dict(source.types) for name, source in plan.sources.items()},
        },
    )
