"""Experiments that never were: real users, split by chance again and again, and compared for real.

A test is as good as its promises on *this* platform's users, of whom few are dear and most do
nothing. Two kinds of replay find out:

* *A/A*: the users of history are split, nobody is treated, and every effect that is found is a
  false one. Its share has to be alpha, and p-values have to be uniform.
* *A/B with a known effect*: history is taken for the population, and its users are given a second
  outcome, the one under treatment (:func:`treated`). Each replay draws users from it, with
  replacement and so independently of each other, a part of them for control, who show the outcome
  that was, and a part for treatment, who show the other. The true effect is the difference of the
  two outcomes over history: a sum, known to the last digit, that no draw can change. So an
  interval either holds it or does not.

Effects come from the very :func:`~lumos.experiment.effects.compare` that measures experiments;
here only the sums over users of many replays are made at once, as one product of matrices.

Sources: Neyman (1923) on the two outcomes of each user; Kohavi, Tang, Xu (2020), "Trustworthy
Online Controlled Experiments", ch. 19 (the A/A test).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lumos.experiment.effects import DENOMINATOR, NUMERATOR, ONE, Effect, Moments, compare
from lumos.experiment.sequential import always_valid_reach, bounds, spent

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
# How often each user of history stands in control, and in treatment, in some replays: (R, N) each.
Weights = tuple[Floats, Floats]

_CELLS = 4_000_000  # of a matrix of weights: replays are made so many at a time


@dataclass(frozen=True, eq=False)
class History:
    """What a metric was for each user, had an experiment run over days that have passed.

    Attributes:
        numerator: As measured on the evening of each day since exposure, (D, N).
        denominator: The same of a ratio metric, (D, N); none for a mean per user.
        covariates: What was known of each user before, by name, (N,).
    """

    numerator: Floats
    denominator: Floats | None = None
    covariates: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def num_days(self) -> int:
        """Days, on each of whose evenings one may look."""
        return len(self.numerator)

    @property
    def num_users(self) -> int:
        """Users there were."""
        return int(self.numerator.shape[1])

    def as_mean(self) -> Self:
        """The numerator per user, whatever the metric divides it by."""
        return replace(self, denominator=None)

    def columns(self, day: int) -> dict[str, Floats]:
        """Everything known on the evening of a day, from 1; (N,) each."""
        found = {ONE: np.ones(self.num_users), NUMERATOR: self.numerator[day - 1]}
        if self.denominator is not None:
            found[DENOMINATOR] = self.denominator[day - 1]
        return {**found, **self.covariates}

    def moments(self, day: int, weights: Floats) -> list[Moments]:
        """Sums over users on the evening of a day, one for each replay.

        Args:
            day: From 1.
            weights: How often each user counts, (R, N).
        """
        columns = self.columns(day)
        values = np.stack(list(columns.values()))
        products = (values[:, None] * values[None, :]).reshape(-1, self.num_users)
        sums = (weights @ products.T).reshape(-1, len(columns), len(columns))
        return [Moments(tuple(columns), matrix) for matrix in sums]


def split(
    num_users: int, shares: tuple[float, float], *, num_replays: int, seed: int
) -> Iterator[Weights]:
    """A/A: each user of history in control, in treatment or in neither, by chance.

    Args:
        num_users: N, of history.
        shares: Of control and of treatment.
        num_replays: R, in all; they come some at a time.
        seed: The same seed gives the same splits.
    """
    chance = np.random.default_rng(seed)
    control, both = shares[0], sum(shares)
    for count in _portions(num_replays, num_users):
        drawn = chance.random((count, num_users))
        is_control = drawn < control
        yield is_control.astype(float), (~is_control & (drawn < both)).astype(float)


def draw(
    num_users: int, shares: tuple[float, float], *, of: int, num_replays: int, seed: int
) -> Iterator[Weights]:
    """A/B: users drawn from history with replacement, each of them for one variant.

    Args:
        num_users: How many take part in a replay.
        shares: Of control and of treatment; who is left is in neither.
        of: N, the users of history.
        num_replays: R, in all; they come some at a time.
        seed: The same seed gives the same draws.
    """
    chance = np.random.default_rng(seed)
    left = max(0.0, 1 - sum(shares))
    for count in _portions(num_replays, of):
        sizes = chance.multinomial(num_users, [*shares, left], size=count)
        control, treatment = (chance.multinomial(drawn, [1 / of] * of) for drawn in sizes.T[:2])
        yield control.astype(float), treatment.astype(float)


def _portions(num_replays: int, num_users: int) -> Iterator[int]:
    most = max(1, _CELLS // num_users)
    for first in range(0, num_replays, most):
        yield min(most, num_replays - first)


def treated(history: History, relative: float, *, seed: int) -> History:
    """The same users under a treatment that changes the numerator by a share.

    A numerator that counts days grows by days: so many of the days on which users were away become
    days on which they came as make the change on the last evening the one that is asked for (a
    negative one takes days away instead); chance says which, all alike. Any other numerator is
    multiplied. The chance is played once, so that each user has one outcome under treatment;
    what the effect is on any evening is :func:`true_effect`, exactly.

    Args:
        history: Under control.
        relative: Change of the numerator's sum on the last evening: 0.05 for 5% more.
        seed: Of the chance.

    Raises:
        ValueError: So large a change cannot be: there are not as many days to add or to take.
    """
    steps = np.diff(history.numerator, axis=0, prepend=0.0)
    if not np.isin(steps, (0.0, 1.0)).all():
        return replace(history, numerator=history.numerator * (1 + relative))
    is_active = steps > 0
    may_turn = ~is_active if relative > 0 else is_active
    wanted, possible = round(abs(relative) * is_active.sum()), np.flatnonzero(may_turn)
    if wanted > len(possible):
        msg = (
            f"a change of {relative:+.1%} wants {wanted} user-days turned, and there are "
            f"{len(possible)} that can be"
        )
        raise ValueError(msg)
    turned = np.random.default_rng(seed).choice(possible, wanted, replace=False)
    is_active.flat[turned] ^= True
    return replace(history, numerator=np.cumsum(is_active, axis=0, dtype=float))


def true_effect(control: History, treatment: History, day: int) -> float:
    """What an infinite experiment would find on the evening of a day, in the metric's unit."""

    def value(history: History) -> float:
        columns = history.columns(day)
        divisor = columns.get(DENOMINATOR, columns[ONE])
        return float(columns[NUMERATOR].sum() / divisor.sum())

    return value(treatment) - value(control)


def expected(
    control: History,
    treatment: History,
    day: int,
    *,
    sizes: tuple[float, float],
    adjust: Sequence[str] = (),
    alpha: float = 0.05,
) -> Effect:
    """The effect that variants of these sizes show on an evening if chance favours neither.

    Its error is what the experiment's will be, to within the square root of the users.

    Args:
        control: Outcomes under control.
        treatment: Outcomes under treatment, of the same users.
        day: From 1.
        sizes: Users in control and in treatment.
        adjust: Names of covariates.
        alpha: P of an interval that misses the truth.
    """
    ours, theirs = (
        history.moments(day, np.full((1, history.num_users), size / history.num_users))[0]
        for history, size in zip((control, treatment), sizes, strict=True)
    )
    return compare(ours, theirs, alpha=alpha, adjust=adjust)


@dataclass(frozen=True, eq=False)
class Found:
    """What one analysis said of each replay at each look; every array is (R, L).

    A look without variance has no error: it is infinite here, and its p is 1.
    """

    control: Floats
    effect: Floats
    error: Floats
    low: Floats
    high: Floats
    p_value: Floats
    reduction: Floats

    @property
    def z(self) -> Floats:
        """The effect in its errors, (R, L)."""
        return self.effect / self.error

    @property
    def information(self) -> Floats:
        """1 / relative error² of each look, the mean over replays, (L,)."""
        mean: Floats = ((self.control / self.error) ** 2).mean(axis=0)
        return mean


def replays(
    control: History,
    treatment: History,
    weights: Iterable[Weights],
    *,
    looks: Sequence[int],
    analyses: Mapping[str, Sequence[str]],
    alpha: float,
) -> dict[str, Found]:
    """Compare the variants of every replay at every look, in each of several ways.

    Args:
        control: Outcomes under control.
        treatment: Outcomes under treatment of the same users; in an A/A replay the same ones.
        weights: Of :func:`split` or :func:`draw`.
        looks: Days, from 1, on whose evenings one looks; L of them.
        analyses: By name, the covariates that each adjusts by.
        alpha: P of an interval that misses the truth.
    """
    said: dict[str, list[list[Effect]]] = {name: [[] for _ in looks] for name in analyses}
    for ours, theirs in weights:
        for place, day in enumerate(looks):
            arms = zip(control.moments(day, ours), treatment.moments(day, theirs), strict=True)
            for pair in arms:
                for name, adjust in analyses.items():
                    said[name][place].append(compare(*pair, alpha=alpha, adjust=adjust))
    return {name: _found(by_look) for name, by_look in said.items()}


def _found(by_look: Sequence[Sequence[Effect]]) -> Found:
    rows = np.array([[_row(effect) for effect in look] for look in by_look])  # (L, R, 7)
    return Found(*rows.transpose(2, 1, 0))


def _row(effect: Effect) -> tuple[float | None, ...]:
    if effect.error is None:
        return (effect.control, effect.effect, np.inf, -np.inf, np.inf, 1.0, 0.0)
    return (
        effect.control,
        effect.effect,
        effect.error,
        effect.low,
        effect.high,
        effect.p_value,
        effect.variance_reduction,
    )


def at_the_end(found: Found, alpha: float) -> Flags:
    """Replays whose last look finds an effect, (R,): the only look there is."""
    return found.p_value[:, -1] < alpha


def peeking(found: Found, alpha: float) -> Flags:
    """Replays of which some look finds an effect, (R,): what nobody may do."""
    return _any_look(found.p_value < alpha)


def group_sequential(found: Found, looks: Sequence[int], alpha: float) -> Flags:
    """Replays of which some look crosses the bound of its share of alpha, (R,).

    Args:
        found: At these looks.
        looks: Days, ascending; the last is the planned end.
        alpha: In total.
    """
    limits = bounds_of(found.information, looks, alpha)
    return _any_look(np.abs(found.z) >= limits)


def bounds_of(information: Floats, looks: Sequence[int], alpha: float) -> Floats:
    """What |z| has to reach at each look, (L,); infinite where there is nothing to look at.

    Replays are held to the bounds of their mean information: their own differ by less than the
    integration that finds bounds does (tests/experiment/test_simulate.py holds it).
    """
    limits = np.full(len(looks), np.inf)
    seen = information > 0
    shares = [spent(day / looks[-1], alpha) for day in np.asarray(looks)[seen]]
    if shares:
        limits[seen] = bounds(information[seen].tolist(), shares)
    return limits


def always_valid(found: Found, tau: float, alpha: float) -> Flags:
    """Replays of which some look's confidence sequence excludes zero, (R,).

    Args:
        found: At any looks.
        tau: The size of relative effects it is tuned to.
        alpha: P that any look, ever, finds an effect where there is none.
    """
    is_told = np.isfinite(found.error) & (found.control != 0)
    error = found.error[is_told] / np.abs(found.control[is_told])
    reach = np.full(found.error.shape, np.inf)
    reach[is_told] = [always_valid_reach(each, alpha, tau) / each for each in error.tolist()]
    return _any_look(np.abs(found.z) > reach)


def _any_look(finds: Flags) -> Flags:
    seen: Flags = np.asarray(finds.any(axis=1))
    return seen


@dataclass(frozen=True)
class Rate:
    """How often something happened, and the range that chance allows were it as likely as said.

    Attributes:
        value: Share of the replays.
        low: A fair share is below it as rarely as was asked.
        high: A fair share is above it as rarely.
    """

    value: float
    low: float
    high: float

    @property
    def is_fair(self) -> bool:
        """Within the range."""
        return self.low <= self.value <= self.high


def rate(happened: Flags, chance: float, level: float = 0.99) -> Rate:
    """The share of replays, and the binomial range around the chance that was promised."""
    low, high = stats.binom.interval(level, len(happened), chance)
    return Rate(float(happened.mean()), low / len(happened), high / len(happened))


def uniform_p(p_values: Floats) -> float:
    """P of p-values as uneven as these, were they uniform (Kolmogorov and Smirnov)."""
    return float(stats.kstest(p_values, "uniform").pvalue)
