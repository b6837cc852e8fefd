"""Let Great Expectations run checks, and say what it found in words and in rows.

Great Expectations costs seconds to import, and a query for every list of examples. So checks
run twice: first all of them asking only yes or no; then the failed ones alone, asking for counts
and examples.
"""

import datetime as dt
import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lumos.delta import predicate, replace
from lumos.quality.suites import Check, Flag
from lumos.quality.usual import Measured
from lumos.tables import table_uri, tables
from lumos.verbs import Request, TableWritten

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.data_context.data_context.abstract_data_context import (
        AbstractDataContext,
    )
    from great_expectations.datasource.fluent.interfaces import Batch
    from great_expectations.datasource.fluent.pandas_datasource import PandasDatasource
    from great_expectations.datasource.fluent.spark_datasource import SparkDatasource
    from pyspark.sql import Column, DataFrame

log = logging.getLogger(__name__)

_NUM_EXAMPLES = 3
_MOST_ROWS_HERE = 500_000  # some 100 MB
_YES_OR_NO: dict[str, Any] = {"result_format": "BOOLEAN_ONLY"}


@dataclass(frozen=True)
class Finding:
    """What came out of one check.

    Attributes:
        name: Of the check, or of a number that is only recorded.
        segment: ``table`` or ``table.column``.
        verdict: ``ok``, ``warning``, ``critical``, or ``info`` for a mere number.
        value: Rows or values at fault; of a measured number, the number.
        message: A sentence for a person on call; empty where all is well.
    """

    name: str
    segment: str
    verdict: str
    value: float | None
    message: str = ""


def preload() -> None:
    """Start importing Great Expectations beside whatever this process waits for."""
    threading.Thread(target=_import, name="import-great-expectations", daemon=True).start()


def check_rows(
    frame: "DataFrame",
    checks: Sequence[Check],
    *,
    flags: Iterable[Flag],
    key: Sequence[str],
    date: dt.date,
) -> list[Finding]:
    """Run checks on the rows of one table with Spark.

    Args:
        frame: The rows; cached, because they are read about five times.
        checks: From :func:`lumos.quality.suites.checks`.
        flags: Columns to add first, from :func:`lumos.quality.suites.flags`.
        key: Columns that name a row in an example.
        date: Business date, for the messages.

    Returns:
        One finding a check, in the order of the checks.
    """
    flagged = reduce(lambda rows, flag: rows.withColumn(flag.name, _is(flag)), flags, frame)
    source = _context().data_sources.add_spark("lumos", persist=False)
    batch = _batch(source, flagged)
    failed = _failed_checks(batch, flagged, checks)
    detail: dict[str, Any] = {
        "result_format": "SUMMARY",
        "unexpected_index_column_names": list(key),
        "partial_unexpected_count": _NUM_EXAMPLES,
    }
    again = [checks[index] for index in failed]
    details = {failed[place]: found for place, found in _failed(batch, again, detail).items()}
    return [
        _finding(check, details.get(index), key=key, date=date)
        for index, check in enumerate(checks)
    ]


def _failed_checks(batch: "Batch", rows: "DataFrame", checks: Sequence[Check]) -> list[int]:
    """Places of the checks that do not hold, asked as cheaply as the rows allow.

    Spark plans and compiles some eight queries for a table; of a table that this process can hold
    it needs one, and Great Expectations asks pandas. Types are Spark's in either case.
    """
    if rows.count() > _MOST_ROWS_HERE:
        return list(_failed(batch, checks, _YES_OR_NO))
    import pandas as pd

    here = _context().data_sources.add_pandas("lumos")
    # Arrow's types, in which a number that is none is no null.
    held = _batch(here, rows.toArrow().to_pandas(types_mapper=pd.ArrowDtype))
    of_type = [place for place, check in enumerate(checks) if check.name == "type"]
    others = [place for place, check in enumerate(checks) if check.name != "type"]
    found = []
    for places, asked in ((of_type, batch), (others, held)):
        wanted = [checks[place] for place in places]
        found += [places[place] for place in _failed(asked, wanted, _YES_OR_NO)]
    return sorted(found)


def check_numbers(numbers: Sequence[Measured]) -> list[Finding]:
    """Run checks on numbers that have been measured already.

    Returns:
        One finding a number, in order; its value is the number itself.
    """
    import pandas as pd

    checks = [number.check for number in numbers]
    values = {number.check.arguments["column"]: [number.value] for number in numbers}
    source = _context().data_sources.add_pandas("lumos")
    failed = _failed(_batch(source, pd.DataFrame(values)), checks, _YES_OR_NO)
    return [
        Finding(
            name=number.check.name,
            segment=number.check.segment,
            verdict=number.check.severity if place in failed else "ok",
            value=number.value,
            message=number.check.fault if place in failed else "",
        )
        for place, number in enumerate(numbers)
    ]


def write_metrics(request: Request, findings: Sequence[Finding]) -> TableWritten:
    """Put findings in the place of those that this verb left for this business date."""
    table = tables(request.recipe)["metrics"]
    rows = [{"day": request.date, "job": request.verb, **vars(finding)} for finding in findings]
    version = replace(
        table_uri(request.settings, request.recipe, table.name),
        pa.Table.from_pylist(rows, schema=table.arrow_schema(request.recipe)),
        where=predicate(job=request.verb, day=request.date),
        partition=table.partition,
    )
    return TableWritten(table=table.name, version=version, rows=len(rows))


def messages(findings: Iterable[Finding], verdict: str) -> list[str]:
    """The sentences of all findings with that verdict."""
    return [finding.message for finding in findings if finding.verdict == verdict]


def _import() -> None:
    # Its import alone says a dozen things at INFO that nobody on call wants to read.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    import great_expectations.expectations  # noqa: F401


def _context() -> "AbstractDataContext":
    """A fresh context in memory: no project folder, no data documents, no telemetry."""
    _import()
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def _batch(
    source: "PandasDatasource | SparkDatasource", frame: "pd.DataFrame | DataFrame"
) -> "Batch":
    asset = source.add_dataframe_asset("rows")
    return asset.add_batch_definition_whole_dataframe("rows").get_batch({"dataframe": frame})


def _failed(
    batch: "Batch", checks: Sequence[Check], result_format: dict[str, Any]
) -> dict[int, "ExpectationValidationResult"]:
    """Results of the checks that failed, by their place."""
    if not checks:
        return {}
    from great_expectations import ExpectationSuite, expectations

    suite = ExpectationSuite(
        name="checks",
        expectations=[
            getattr(expectations, check.expectation)(
                **check.arguments, severity=check.severity, meta={"place": place}
            )
            for place, check in enumerate(checks)
        ],
    )
    outcome = batch.validate(suite, result_format=result_format)
    if outcome.get_max_severity_failure() is None:
        return {}
    failed = {
        result.expectation_config.meta["place"]: result
        for result in outcome.results
        if not result.success and result.expectation_config
    }
    return dict(sorted(failed.items()))


def _finding(
    check: Check, result: "ExpectationValidationResult | None", *, key: Sequence[str], date: dt.date
) -> Finding:
    if result is None:
        return Finding(name=check.name, segment=check.segment, verdict="ok", value=0.0)
    count = result.result.get("unexpected_count")
    examples = _examples(check, result, key)
    sentence = check.fault.format(count=count)
    if count == 1:
        sentence = sentence.replace("1 rows", "1 row").replace("1 values", "1 value")
    if count is None and "{count}" in check.fault:
        sentence = f"{check.column or check.name} could not be checked: {_trouble(result)}"
    return Finding(
        name=check.name,
        segment=check.segment,
        verdict=check.severity,
        value=None if count is None else float(count),
        message=f"{check.table} {date}: {sentence} ({check.severity})"
        + (f", e.g. {'; '.join(examples)}" if examples else ""),
    )


def _examples(check: Check, result: "ExpectationValidationResult", key: Sequence[str]) -> list[str]:
    found = result.result.get("partial_unexpected_index_list") or []
    column = check.arguments.get("column", "")
    texts = []
    for row in found[:_NUM_EXAMPLES]:
        text = ", ".join(f"{name} {row.get(name)}" for name in key)
        shown = column in row and column not in key and not column.startswith("_")
        texts.append(f"{text}: {row[column]}" if shown else text)
    # Files come in no particular order, and a rerun shall say the same.
    return sorted(texts)


def _trouble(result: "ExpectationValidationResult") -> str:
    raised = (result.exception_info or {}).values()
    found = [info.get("exception_message") for info in raised if isinstance(info, dict)]
    return str((found or [result.exception_info])[0])


def _is(flag: Flag) -> "Column":
    """1 where a row is odd in the way of the flag, else 0; nulls are not this check's business."""
    from pyspark.sql import functions

    terms = []
    if flag.any_nonzero:
        terms.append(reduce(or_, (functions.col(name) != 0 for name in flag.any_nonzero)))
    if flag.all_zero:
        terms.append(reduce(and_, (functions.col(name) == 0 for name in flag.all_zero)))
    if flag.earlier:
        terms.append(functions.col(flag.earlier[0]) < functions.col(flag.earlier[1]))
    odd = functions.coalesce(reduce(and_, terms), functions.lit(False))
    return functions.when(odd, 1).otherwise(0)
