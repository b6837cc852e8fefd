"""Effects with intervals, from sums over users. Pure arithmetic, and no table in sight.

The unit is the *user*, never the user-day: a user who comes today tends to come tomorrow, and
counting both days as independent finds an effect in 46% of comparisons of equals
(docs/experiments.md). So daily activity is a ratio of two sums over users, active days over days
exposed, and its variance over users follows from the delta method.

What users did before the experiment cannot be an effect of it. Where it foretells what they do
now (CUPED), both variants are moved to the same past, and the part of the variance that the past
explains is gone.

Sources: Welch's t-test; Deng, Knoblich, Lu (2018), "Applying the Delta Method in Metric
Analytics"; Deng, Xu, Kohavi, Walker (2013), "Improving the Sensitivity of Online Controlled
Experiments by Utilizing Pre-Experiment Data"; GrowthBook's `gbstats`, whose own test cells are
among the known answers in the tests.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

ONE, NUMERATOR, DENOMINATOR = "one", "numerator", "denominator"
SIMULATED_SPLIT = "A/A split of untreated users: nobody was treated, so no effect is to be found."

# Sums of float64 are good to about this share of the second moment: a smaller variance is none.
_NO_VARIANCE = 1e-12
# An eigenvalue of the covariates' correlations as small as this: some say the same thing twice.
_COLLINEAR = 1e-9


@dataclass(frozen=True, eq=False)
class Moments:
    """What is left of a variant's users when each has been added up.

    Attributes:
        names: "one" (1 for each user), "numerator", "denominator" for a ratio metric, and any
            covariates; (K,). Without a denominator the metric is a mean per user.
        matrix: Sum over users of the product of two of them; (K, K), symmetric.

    Raises:
        ValueError: Nobody, a sum that is not finite, or names and a matrix that do not belong
            together.
    """

    names: tuple[str, ...]
    matrix: NDArray[np.float64]

    def __post_init__(self) -> None:
        num_names = len(self.names)
        if self.names[:2] != (ONE, NUMERATOR) or len(set(self.names)) < num_names:
            msg = f"moments are of {ONE!r}, {NUMERATOR!r} and then others once, not {self.names}"
            raise ValueError(msg)
        matrix = np.asarray(self.matrix, dtype=np.float64)
        object.__setattr__(self, "matrix", matrix)
        if matrix.shape != (num_names, num_names):
            msg = f"{num_names} names need a square matrix of as many, not {matrix.shape}"
            raise ValueError(msg)
        if not np.isfinite(matrix).all():
            msg = f"sums over users must be finite, not {matrix.tolist()} of {self.names}"
            raise ValueError(msg)
        if (matrix != matrix.T).any() and not np.allclose(matrix, matrix.T, atol=0):
            msg = f"sums of products must be symmetric, not {matrix.tolist()} of {self.names}"
            raise ValueError(msg)
        if matrix[0, 0] < 1:
            msg = f"a variant needs users, not {matrix[0, 0]:g} users"
            raise ValueError(msg)

    @classmethod
    def of(cls, columns: Mapping[str, NDArray[np.float64]]) -> Self:
        """Add users up.

        Args:
            columns: Name to one value per user, (N,); without "one".
        """
        first = next(iter(columns.values()))
        values = np.stack([np.ones(len(first)), *columns.values()])
        return cls((ONE, *columns), values @ values.T)

    def __add__(self, other: Self) -> Self:
        """The users of both, none of whom may be in both."""
        if self.names != other.names:
            msg = f"moments of {self.names} and of {other.names} do not add up"
            raise ValueError(msg)
        return type(self)(self.names, self.matrix + other.matrix)

    @property
    def num_users(self) -> int:
        """How many users were added up."""
        return round(float(self.matrix[0, 0]))

    @property
    def divisor(self) -> int:
        """Where the names have what the numerator is divided by; "one" for a mean per user."""
        return self.names.index(DENOMINATOR) if DENOMINATOR in self.names else 0

    @property
    def has_ratio(self) -> bool:
        """Whether there is something to divide by."""
        return bool(self.matrix[0, self.divisor] > 0)


@dataclass(frozen=True)
class Effect:
    """Treatment against control, in the metric's unit. ``None`` where the data cannot say.

    Attributes:
        control: Mean per user, or ratio; at the covariates' mean over both variants.
        treatment: The same of the treatment.
        effect: Treatment minus control.
        error: Its standard error; without variance, or with one user on a side, there is none,
            and no interval and no p either.
        low: End of the 1 - alpha interval.
        high: Its other end.
        p_value: Of no difference, two-sided.
        relative: The effect over the control; a control of zero has none.
        relative_error: Its standard error (delta method).
        relative_low: End of its 1 - alpha interval.
        relative_high: Its other end.
        relative_p_value: Of no relative difference, two-sided. It agrees with the relative
            interval, which knows that the control is uncertain, and so differs from ``p_value``.
        variance_reduction: Share of the effect's variance that the covariates took away.
    """

    control: float
    treatment: float
    effect: float
    error: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    relative: float | None = None
    relative_error: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None
    relative_p_value: float | None = None
    variance_reduction: float | None = None


@dataclass(frozen=True)
class _Estimate:
    """A mean or ratio, and its variance; ``None`` for a single user."""

    value: float
    variance: float | None
    num_users: int


@dataclass(frozen=True)
class _Arm:
    """A variant whose users have been linearised.

    Attributes:
        ratio: Its mean or ratio R.
        means: Of the covariates; (C,).
        spread: Sums over users of products of (x - R * y) / mean(y) and the covariates, each
            around its mean; (1 + C, 1 + C).
        second_moment: Sum over users of (x / mean(y))².
        num_users: How many they are.
    """

    ratio: float
    means: NDArray[np.float64]
    spread: NDArray[np.float64]
    second_moment: float
    num_users: int

    @classmethod
    def of(cls, moments: Moments, covariates: list[int]) -> Self:
        matrix, divisor = moments.matrix, moments.divisor
        means = matrix[0] / matrix[0, 0]
        unit = 1 / float(means[divisor])
        ratio = float(means[1]) * unit
        weights = np.zeros((1 + len(covariates), len(means)))
        weights[0, 1], weights[0, divisor] = unit, -ratio * unit
        for row, covariate in enumerate(covariates, start=1):
            weights[row, covariate], weights[row, 0] = 1, -means[covariate]
        spread = weights @ matrix @ weights.T
        second_moment = float(matrix[1, 1]) * unit**2
        return cls(ratio, means[covariates], spread, second_moment, moments.num_users)

    def moved(self, theta: NDArray[np.float64], common: NDArray[np.float64]) -> _Estimate:
        """The estimate had the covariates' means been ``common``; as it is for a theta of 0."""
        value = self.ratio - float(theta @ (self.means - common))
        if self.num_users == 1:
            return _Estimate(value, None, 1)
        weights = np.concatenate([[1.0], -theta])
        squares = float(weights @ self.spread @ weights)
        if squares <= _NO_VARIANCE * self.second_moment:
            return _Estimate(value, 0.0, self.num_users)
        return _Estimate(value, squares / (self.num_users - 1) / self.num_users, self.num_users)


def compare(
    control: Moments, treatment: Moments, *, alpha: float, adjust: Sequence[str] = ()
) -> Effect:
    """Difference and relative difference of two variants, each with a 1 - alpha interval and p.

    Welch's t-test on users. A ratio is linearised: a user counts as (x - R * y) / mean(y), where
    R is the variant's ratio. With covariates, theta is the regression of that on them within the
    variants, and both variants' values are moved to the covariates' mean over both. Theta is
    taken as known, which is fair with a hundred users a covariate and more.

    Args:
        control: The variant that is compared against.
        treatment: The variant that is compared.
        alpha: P of an interval that misses the truth.
        adjust: Names of the covariates. One without variance, or that repeats others, adds
            nothing and does no harm.

    Raises:
        ValueError: Variants that were measured differently, what is no covariate of theirs, or
            nothing to divide by.
    """
    names = control.names
    if treatment.names != names or not set(adjust) <= {*names} - {ONE, NUMERATOR, DENOMINATOR}:
        msg = f"cannot compare {names} and {treatment.names}, adjusted for {list(adjust)}"
        raise ValueError(msg)
    if not (control.has_ratio and treatment.has_ratio):
        sums = [float(side.matrix[0, side.divisor]) for side in (control, treatment)]
        msg = f"a ratio needs a positive denominator, not {sums}"
        raise ValueError(msg)
    covariates = [names.index(name) for name in adjust]
    arms = [_Arm.of(side, covariates) for side in (control, treatment)]
    num_users = arms[0].num_users + arms[1].num_users
    common = (arms[0].means * arms[0].num_users + arms[1].means * arms[1].num_users) / num_users
    plain = [arm.moved(np.zeros(len(adjust)), common) for arm in arms]
    if not adjust:
        return _effect(*plain, alpha=alpha, unadjusted=plain)
    squares = [float(control.matrix[i, i] + treatment.matrix[i, i]) for i in covariates]
    theta = _theta(arms[0].spread + arms[1].spread, squares)
    adjusted = [arm.moved(theta, common) for arm in arms]
    return _effect(*adjusted, alpha=alpha, unadjusted=plain)


def _theta(spread: NDArray[np.float64], squares: list[float]) -> NDArray[np.float64]:
    """Least squares of the first on the others, each scaled: no unit decides what is cut off."""
    variances = spread.diagonal()[1:].tolist()
    scale = np.array(
        [
            1 / math.sqrt(variance) if variance > _NO_VARIANCE * square else 0.0
            for variance, square in zip(variances, squares, strict=True)
        ]
    )
    values, vectors = np.linalg.eigh(spread[1:, 1:] * scale * scale[:, None])
    kept = values > _COLLINEAR
    solved: NDArray[np.float64] = vectors[:, kept].T @ (scale * spread[1:, 0]) / values[kept]
    return scale * (vectors[:, kept] @ solved)


def _effect(
    control: _Estimate, treatment: _Estimate, *, alpha: float, unadjusted: Sequence[_Estimate]
) -> Effect:
    difference = treatment.value - control.value
    ratio = treatment.value / control.value if control.value else None
    relative = None if ratio is None else difference / control.value
    known = (control.value, treatment.value, difference)
    if control.variance is None or treatment.variance is None:
        return Effect(*known, relative=relative)
    variance = control.variance + treatment.variance
    if variance == 0:
        return Effect(*known, relative=relative)
    share = control.variance / variance
    freedom = 1 / (
        share**2 / (control.num_users - 1) + (1 - share) ** 2 / (treatment.num_users - 1)
    )
    reach = float(special.stdtrit(freedom, 1 - alpha / 2))

    def p_value(error: float) -> float:
        return 2 * float(special.stdtr(freedom, -abs(difference) / error))

    error = math.sqrt(variance)
    absolute = (error, difference - reach * error, difference + reach * error, p_value(error))
    before = sum(plain.variance or 0.0 for plain in unadjusted)
    reduction = 1 - variance / before if before else 0.0
    if ratio is None or relative is None:
        return Effect(*known, *absolute, variance_reduction=reduction)
    spread = math.sqrt(treatment.variance + ratio**2 * control.variance)
    if spread == 0:
        return Effect(*known, *absolute, relative, variance_reduction=reduction)
    off = spread / abs(control.value)
    ends = (relative - reach * off, relative + reach * off)
    return Effect(*known, *absolute, relative, off, *ends, p_value(spread), reduction)


def sample_ratio_p_value(counts: Sequence[int], shares: Sequence[float]) -> float:
    """P of a split at least as uneven as this one, had users been split by ``shares``.

    Pearson's chi-square. A tiny p says that the split itself is broken (a lost log, a bot, a
    redirect), and then no effect can be believed.

    Raises:
        ValueError: Nobody at all, or a share of nothing.
    """
    total = sum(counts)
    if total == 0 or min(shares) <= 0:
        msg = f"a sample ratio needs users and positive shares, not {counts} and {shares}"
        raise ValueError(msg)
    expected = [share * total for share in shares]
    distance = sum((n - e) ** 2 / e for n, e in zip(counts, expected, strict=True))
    return float(special.chdtrc(len(counts) - 1, distance))


def adjusted_p_values(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values that may be held to alpha side by side (Benjamini-Hochberg).

    Of the effects that are then called effects, a share of alpha at most is none, on average.
    ``None`` stays ``None`` and is not counted.
    """
    known = [p for p in p_values if p is not None]
    adjusted = iter(stats.false_discovery_control(known) if known else ())
    return [None if p is None else float(next(adjusted)) for p in p_values]
