"""Rows of the table `metrics`: figures of an experiment, each with a verdict and a sentence."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from lumos.delta import predicate, replace
from lumos.experiment.declaration import Experiment
from lumos.tables import table_uri, tables
from lumos.verbs import Request

Figure = dict[str, Any]


def figure(name: str, value: float | None, message: str = "", verdict: str = "info") -> Figure:
    """What a verb found; ``verdict`` is ok, warning, critical or info."""
    return {"name": name, "value": value, "verdict": verdict, "message": message}


def write_figures(request: Request, experiment: Experiment, figures: Sequence[Figure]) -> int:
    """Put them in place of what the verb wrote for the date and experiment; returns the version."""
    declared_as = tables(request.recipe)["metrics"]
    common = {"day": request.date, "job": request.verb, "segment": experiment.name}
    return replace(
        table_uri(request.settings, request.recipe, "metrics"),
        pa.Table.from_pylist(
            [{**common, **each} for each in figures],
            schema=declared_as.arrow_schema(request.recipe),
        ),
        where=predicate(job=request.verb, day=request.date, segment=experiment.name),
        partition=declared_as.partition,
    )
