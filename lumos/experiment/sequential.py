"""Looking every day without fooling oneself: bounds that hold at every look.

A plain p-value is right once. Looked at on 18 mornings, it is below .05 on one of them far more
often than once in twenty comparisons of equals. Two remedies:

* *Group-sequential*: alpha is spent over the planned days by the spending function of O'Brien and
  Fleming's kind, little of it early, and each look is held to the bound that its share buys. The
  planned end is part of the promise.
* *Always valid*: a confidence sequence, true at all looks together, planned or not, for ever. It
  needs no plan and is wider for it.

Both take a look as what it is: an estimate and its standard error. Information is 1 / error². The
share of alpha is spent by *calendar* time (the day's number over the planned days), because that
is known when the experiment is planned; how strongly two looks are correlated follows from their
*information*, which is observed (Lan and DeMets 1989). No look needs to know the final error. The
estimates are taken as normal, which means of some hundred users and more are.

Sources: Lan, DeMets (1983), "Discrete sequential boundaries for clinical trials", Biometrika 70;
Lan, DeMets (1989), "Group sequential procedures: calendar versus information time", Stat. Med. 8;
Jennison, Turnbull (2000), "Group Sequential Methods", ch. 19 (the integration); Johari, Koomen,
Pekelis, Walsh (2022), "Always Valid Inference", Operations Research 70 (the mixture).
"""

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

# Chance alone crosses it once in 1e15: early looks of long plans are given no more.
NEVER = 8.0
# The least that a look's information is taken to exceed that of the look before.
_LEAST_GROWTH = 2e-3


def spent(fraction: float, alpha: float) -> float:
    """Two-sided alpha spent by a fraction of the plan: O'Brien and Fleming's kind.

    Args:
        fraction: Of the planned time, above 0; from 1 on all is spent.
        alpha: In total.

    Raises:
        ValueError: Nothing of the plan has passed.
    """
    if not fraction > 0:
        msg = f"alpha is spent once time has passed, not at a fraction of {fraction}"
        raise ValueError(msg)
    quantile = float(special.ndtri(1 - alpha / 4))
    return 4 * float(special.ndtr(-quantile / math.sqrt(min(fraction, 1.0))))


def bounds(information: Sequence[float], alpha_spent: Sequence[float]) -> list[float]:
    """What |z| must reach at each look for alpha to be spent as said.

    A bound depends on its own look and those before it, never on later ones: one call for all
    looks gives each bound as it stood on its day.

    Information that does not grow (late data, a tail cut elsewhere) says that the looks before
    knew less than they claimed. They keep their bounds, which depend on ratios of information
    alone, and this look counts as knowing a little more than the last. Later bounds get wider for
    it, not narrower; that look's own may be too narrow, which costs a tenth of alpha at worst in
    the tests' cases, where it is the last of 18.

    Args:
        information: 1 / error² of each look, in any unit; (K,).
        alpha_spent: By each look, cumulated; (K,). It may stand still, and end below alpha.

    Returns:
        A bound per look, :data:`NEVER` at most.

    Raises:
        ValueError: A look without information, or alpha that is taken back or reaches 1.
    """
    if not all(a <= b for a, b in itertools.pairwise([0.0, *alpha_spent, 1.0])):
        msg = f"alpha spent grows from 0 and stays below 1, unlike {list(alpha_spent)}"
        raise ValueError(msg)
    state, found = _Inside.at_start(), []
    grown, shares = _growing(information), np.diff(alpha_spent, prepend=0.0)
    for now, following, share in zip(grown, [*grown[1:], math.inf], shares, strict=True):
        bound = _bound(state, now, share)
        state = state.inside(bound, now, following)
        found.append(bound)
    return found


def crossing(
    information: Sequence[float], limits: Sequence[float], drift: float = 0.0
) -> list[float]:
    """P of the first |z| beyond its bound at each look; they sum to the power of the plan.

    Args:
        information: 1 / error² of each look, growing; (K,).
        limits: The bound of each look, infinite where nothing is tested; (K,).
        drift: The true effect, in the unit whose square is 1 / information.

    Raises:
        ValueError: A look without information.
    """
    state, found = _Inside.at_start(drift), []
    grown = _growing(information)
    for now, following, bound in zip(grown, [*grown[1:], math.inf], limits, strict=True):
        found.append(state.beyond(bound, now))
        state = state.inside(bound, now, following)
    return found


@dataclass(frozen=True)
class _Inside:
    """Chance that is left where no bound was crossed: ``mass`` at each of ``points``.

    The points are scores, z * sqrt(information), whose increments are independent and normal with
    the information gained as variance and ``drift`` times it as mean.
    """

    points: NDArray[np.float64]
    mass: NDArray[np.float64]
    information: float
    drift: float

    @classmethod
    def at_start(cls, drift: float = 0.0) -> Self:
        """All of the chance, before the first look."""
        return cls(np.zeros(1), np.ones(1), 0.0, drift)

    def beyond(self, bound: float, information: float) -> float:
        """P of |z| beyond the bound at the next look."""
        gained = information - self.information
        edge, centre = bound * math.sqrt(information), self.points + self.drift * gained
        step = math.sqrt(gained)
        outside = special.ndtr((centre - edge) / step) + special.ndtr((-centre - edge) / step)
        return float(self.mass @ outside)

    def inside(self, bound: float, information: float, following: float) -> Self:
        """The chance that goes on from the next look to the ``following`` one."""
        gained = information - self.information
        furthest = abs(self.drift) * information + NEVER * math.sqrt(information)
        edge = min(bound * math.sqrt(information), furthest)
        centre = self.points + self.drift * gained
        nodes, weights = _rule(edge / math.sqrt(min(gained, following - information)))
        points = nodes * edge
        distance = (points[:, None] - centre[None, :]) / math.sqrt(gained)
        density = np.exp(-0.5 * distance**2) @ self.mass / math.sqrt(2 * math.pi * gained)
        return type(self)(points, weights * edge * density, information, self.drift)


def _rule(width: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss and Legendre's nodes and weights for bounds that many standard deviations out.

    Five nodes a deviation leave an error around 1e-9. From 512 nodes on it grows, to 1e-7 at the
    least growth of information and the widest bound.
    """
    return _gauss_legendre(min(512, 2 ** math.ceil(math.log2(max(32.0, 5 * width)))))


@functools.cache
def _gauss_legendre(num_nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    return nodes, weights


def _bound(state: _Inside, information: float, share: float) -> float:
    if state.beyond(NEVER, information) >= share:
        return NEVER
    return float(optimize.brentq(lambda b: state.beyond(b, information) - share, 0.0, NEVER))


def _growing(information: Sequence[float]) -> list[float]:
    """The same growth from look to look, and the least growth where there was less."""
    if not all(math.isfinite(now) and now > 0 for now in information):
        msg = f"looks need a finite, positive information, not {list(information)}"
        raise ValueError(msg)
    grown = list(information[:1])
    for before, now in itertools.pairwise(information):
        grown.append(grown[-1] * max(now / before, 1 + _LEAST_GROWTH))
    return grown


def always_valid_reach(error: float, alpha: float, tau: float) -> float:
    """Half the width of the confidence sequence at a look with this standard error.

    Args:
        error: The look's standard error, in the effect's unit.
        alpha: P of an interval that misses the truth at any look, ever.
        tau: The standard deviation of the effects it is tuned to, in the effect's unit: any
            positive value is valid if chosen beforehand, and one near the effect that matters is
            tightest there.

    Raises:
        ValueError: An error or a tau that is not positive.
    """
    variance, mixed = _mixture(error, tau)
    width = variance * mixed / tau**2 * (2 * math.log(1 / alpha) + math.log(mixed / variance))
    return math.sqrt(width)


def always_valid_p(effect: float, error: float, tau: float) -> float:
    """P of ever seeing evidence as strong as this look's, were there no effect.

    One over the mixture's likelihood ratio: below alpha exactly where :func:`always_valid_reach`
    excludes zero. The p-value after several looks is their minimum.

    Args:
        effect: The look's estimate.
        error: Its standard error.
        tau: As in :func:`always_valid_reach`.

    Raises:
        ValueError: An error or a tau that is not positive.
    """
    variance, mixed = _mixture(error, tau)
    log_ratio = 0.5 * math.log(variance / mixed) + tau**2 * effect**2 / (2 * variance * mixed)
    return math.exp(-max(log_ratio, 0.0))


def _mixture(error: float, tau: float) -> tuple[float, float]:
    """Variance of the estimate for a given effect, and over effects of all sizes."""
    if not (error > 0 and tau > 0):
        msg = f"a confidence sequence needs a positive error and tau, not {error} and {tau}"
        raise ValueError(msg)
    return error**2, error**2 + tau**2
