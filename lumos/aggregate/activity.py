"""``activity``: what users did on each day, and the proof that no raw row was lost."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lumos.verbs import BadInput


def raw_rows_by_day(activity: DataFrame) -> DataFrame:
    """Raw rows that the SELECT says it counted: ``table, day, num_rows``."""
    return activity.groupBy("day").agg(F.sum("num_raw_rows").alias("num_rows"))


def check_conservation(
    accepted: Mapping[dt.date, int], counted: Mapping[dt.date, int], file: Path
) -> None:
    """Every accepted raw row of a day must be counted in ``activity`` exactly once.

    Args:
        accepted: Accepted raw rows of all fact tables by day.
        counted: Sum of ``num_raw_rows`` by day.
        file: The SELECT, to name it.

    Raises:
        BadInput: Names the days and how many rows were lost or doubled.
    """
    faults = []
    for day in sorted({*accepted, *counted}):
        difference = counted.get(day, 0) - accepted.get(day, 0)
        if difference:
            verb = "counted too often" if difference > 0 else "lost"
            faults.append(f"{abs(difference)} of {accepted.get(day, 0)} rows of {day} {verb}")
    if faults:
        more = f" and {len(faults) - 3} more days" if len(faults) > 3 else ""
        msg = (
            f"{file} does not keep every raw row: {'; '.join(faults[:3])}{more}. Nothing was "
            "written. Check its joins (a LEFT JOIN keeps rows, a repeated key on the right "
            "doubles them), its WHERE, and that num_raw_rows counts rows of every fact table"
        )
        raise BadInput(msg)
