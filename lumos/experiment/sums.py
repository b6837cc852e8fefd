"""What is left of an experiment when its users have been added up: what statistics read."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from lumos.experiment.declaration import Experiment
from lumos.experiment.effects import Moments

FORECAST = "forecast"

BySegment = Mapping[str, Mapping[str, Moments]]  # then by variant


@dataclass(frozen=True)
class Reduced:
    """An experiment up to a business date, as sums; nothing in it grows with the users.

    Attributes:
        counts: Users who count, by variant.
        excluded: Users who do not, by reason.
        num_rows_before: Rows of exposed users between the start and their exposure.
        outcomes: Rows of the table of that name.
        moments: Sums by metric, segment and variant.
        missing: What could not be had, in a sentence each.
    """

    experiment: Experiment
    counts: Mapping[str, int]
    excluded: Mapping[str, int]
    num_rows_before: int
    outcomes: pa.Table
    moments: Mapping[str, BySegment]
    missing: tuple[str, ...] = ()

    @property
    def empty(self) -> tuple[str, ...]:
        """Variants that have no users yet: there is nothing to compare."""
        return tuple(name for name, count in self.counts.items() if not count)
