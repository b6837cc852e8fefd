"""Effects with intervals, from sums over users. Pure arithmetic, and no table in sight.

The unit is the *user*, never the user-day: a user who comes today tends to come tomorrow, and
counting both days as independent finds an effect in 46% of comparisons of equals
(docs/experiments.md). So daily activity is a ratio of two sums over users, active days over days
exposed, and its variance over users follows from the delta method.

Sources: Welch's t-test; Deng, Knoblich, Lu (2018), "Applying the Delta Method in Metric
Analytics"; GrowthBook's `gbstats`, whose own test cells are the known answers in the tests.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from scipy import special

DAU, OFFER_COST = "dau", "offer_cost"
METRICS: Mapping[str, str] = {
    DAU: "days active per day exposed: the share of exposed users who are active on a day",
    OFFER_COST: "offer cost per exposed user since exposure",
}
SIMULATED_SPLIT = "A/A split of untreated users: nobody was treated, so no effect is to be found."


@dataclass(frozen=True)
class Sums:
    """What is left of a variant's users when each has been added up; exact.

    Per user: x, the numerator (active days, or cost), and y, the denominator (days exposed;
    1 for a plain mean per user).
    """

    num_users: int
    x: Fraction
    x_squared: Fraction
    y: Fraction
    y_squared: Fraction
    xy: Fraction

    @classmethod
    def of_mean(cls, num_users: int, total: Fraction, total_squared: Fraction) -> "Sums":
        """For a mean per user: the denominator is the number of users."""
        users = Fraction(num_users)
        return cls(num_users, total, total_squared, users, users, total)


@dataclass(frozen=True)
class Sample:
    """A variant's mean, its users' variance (``None`` for a single user), and their number."""

    mean: float
    variance: float | None
    num_users: int


@dataclass(frozen=True)
class Effect:
    """Treatment against control. ``None`` where the data cannot say.

    Without any variance there is no interval and no p; with a control of zero no relative effect.
    """

    effect: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    relative: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None


def sample_of(sums: Sums) -> Sample:
    """Mean of x over mean of y, and the variance over users of that ratio (delta method).

    Raises:
        ValueError: Nobody, or nothing in the denominator.
    """
    n = sums.num_users
    if n < 1 or sums.y <= 0:
        msg = f"a sample needs users and a positive denominator, not {n} users and {sums.y}"
        raise ValueError(msg)
    ratio = sums.x / sums.y
    if n == 1:
        return Sample(float(ratio), None, n)

    def covariance(product: Fraction, left: Fraction, right: Fraction) -> Fraction:
        return (n * product - left * right) / (n * (n - 1))

    variance = (
        covariance(sums.x_squared, sums.x, sums.x)
        - 2 * ratio * covariance(sums.xy, sums.x, sums.y)
        + ratio**2 * covariance(sums.y_squared, sums.y, sums.y)
    ) / (sums.y / n) ** 2
    return Sample(float(ratio), float(variance), n)


def compare(control: Sample, treatment: Sample, *, alpha: float) -> Effect:
    """Difference and relative difference of two variants, each with a 1 - alpha interval.

    The p-value is that of the difference: Welch's t-test, two-sided.
    """
    difference = treatment.mean - control.mean
    relative = difference / control.mean if control.mean else None
    if control.variance is None or treatment.variance is None:
        return Effect(difference, relative=relative)
    of_control = control.variance / control.num_users
    of_treatment = treatment.variance / treatment.num_users
    error = math.sqrt(of_control + of_treatment)
    if error == 0:
        return Effect(difference, relative=relative)
    freedom = error**4 / (
        of_control**2 / (control.num_users - 1) + of_treatment**2 / (treatment.num_users - 1)
    )
    reach = float(special.stdtrit(freedom, 1 - alpha / 2))
    p_value = 2 * float(special.stdtr(freedom, -abs(difference) / error))
    low, high = difference - reach * error, difference + reach * error
    if relative is None:
        return Effect(difference, low, high, p_value)
    ratio = treatment.mean / control.mean
    half = reach * math.sqrt(of_treatment + ratio**2 * of_control) / abs(control.mean)
    return Effect(difference, low, high, p_value, relative, relative - half, relative + half)


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
