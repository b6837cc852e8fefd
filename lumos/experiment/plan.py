"""What an experiment can find before it has begun: from the errors that its looks will have.

The bounds of the looks and their errors say how probable each effect is to be found
(:func:`~lumos.experiment.sequential.crossing`). Errors fall with the square root of the users, so
that the users an effect needs follow from the smallest effect that so many do find.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import optimize

from lumos.experiment.declaration import ADJUSTMENTS, Experiment
from lumos.experiment.sequential import crossing
from lumos.experiment.simulate import Floats, History, bounds_of, expected


@dataclass(frozen=True, eq=False)
class Plan:
    """Looks at a relative effect.

    Attributes:
        looks: Days of those looks at which something can be told, (L,).
        information: 1 / relative error² of each, (L,).
        bounds: What |z| has to reach at each, (L,).
    """

    looks: Sequence[int]
    information: Floats
    bounds: Floats

    @classmethod
    def of(
        cls,
        history: History,
        *,
        looks: Sequence[int],
        sizes: tuple[float, float],
        adjust: Sequence[str],
        alpha: float,
    ) -> Self:
        """The plan of variants of these sizes whose users are like those of history.

        Args:
            history: Of at least as many days as there are.
            looks: Days, ascending; the last is the planned end.
            sizes: Users in control and in treatment.
            adjust: Names of covariates.
            alpha: In total.

        Raises:
            ValueError: Nobody differs from anybody at any look.
        """
        found = [expected(history, history, day, sizes=sizes, adjust=adjust) for day in looks]
        information = np.array([(e.control / e.error) ** 2 if e.error else 0.0 for e in found])
        seen = information > 0
        if not seen.any():
            msg = "the metric has no variance between users, or is zero: no effect can be planned"
            raise ValueError(msg)
        limits = bounds_of(information, looks, alpha)
        return cls(
            [day for day, is_seen in zip(looks, seen, strict=True) if is_seen],
            information[seen],
            limits[seen],
        )

    def power(self, relative: float) -> float:
        """P of finding a true relative effect at one of the looks."""
        return sum(crossing(self.information.tolist(), self.bounds.tolist(), relative))

    def smallest(self, power: float) -> float:
        """The relative effect that is found with this probability."""
        error = float(self.information[-1] ** -0.5)
        # The last look alone finds an effect of so many errors, whatever the bounds are.
        most = (float(self.bounds[-1]) + 6) * error
        found = optimize.brentq(lambda x: self.power(x) - power, 0.0, most, rtol=1e-4)
        return float(found)


def shares(experiment: Experiment) -> tuple[float, float]:
    """Of control, and of the smallest treatment, which is the hardest to judge."""
    control, *others = (variant.weight for variant in experiment.variants)
    return control, min(others)


def looks_until(experiment: Experiment, num_days: int) -> tuple[int, ...]:
    """The declared looks of an experiment that would end after so many days."""
    declared = experiment.looks or range(1, num_days)
    return (*(day for day in declared if day < num_days), num_days)


def covariates(experiment: Experiment, history: History) -> tuple[str, ...]:
    """Those of the declared adjustment that the metric has: a plain mean has no denominator."""
    return tuple(name for name in ADJUSTMENTS[experiment.adjust] if name in history.covariates)
