"""What is true of a world and can only be estimated from its data.

Besides these, :func:`~lumos.datasets.fantasy_sports.activity.probability` is the truth that every
forecast of activity is after, under the calendar that came or under any other.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from lumos.datasets.fantasy_sports import effects
from lumos.datasets.fantasy_sports.activity import mean_bonus, probability
from lumos.datasets.fantasy_sports.context import COLUMN, context_of
from lumos.datasets.fantasy_sports.users import Users, users_of
from lumos.datasets.fantasy_sports.world import World


@dataclass(frozen=True)
class OfferEffect:
    """Expected active days of each user while the experiment runs, shape (N,).

    Only one of the two can be observed: which, :attr:`offered` says.
    """

    offered: np.ndarray
    without: np.ndarray
    with_offer: np.ndarray

    @property
    def average(self) -> float:
        """The average treatment effect, in active days a user."""
        return float((self.with_offer - self.without).mean())


def offer_effect(world: World, users: Users) -> OfferEffect:
    """What the offer does to each user of a block."""
    everybody = np.ones(len(users), bool)
    without, with_offer = (
        expected(world, users, offered).active_days for offered in (~everybody, everybody)
    )
    return OfferEffect(effects.is_offered(users.user_id), without, with_offer)


@dataclass(frozen=True)
class Expected:
    """What each user is expected to do while the offer runs, shape (N,).

    Attributes:
        active_days: Of the offer's days.
        bonus: What the platform pays of the user's fees on them, in rupees.
    """

    active_days: np.ndarray
    bonus: np.ndarray


def expected(world: World, users: Users, offered: np.ndarray) -> Expected:
    """Of a block of users, if those of a mask of shape (N,) get the offer."""
    days = effects.offer_days(world)
    p = probability(world, users, offered=offered)[:, days].astype(np.float64)
    bonus = p * mean_bonus(world, users, offered=offered)
    return Expected(p.sum(axis=1), bonus.sum(axis=1))


@dataclass(frozen=True)
class PolicyEffect:
    """What it does to all users to be offered by one rule rather than by another.

    Attributes:
        dau: On the share of users who are active on a day of the offer.
        bonus: On what a user's offers cost while it runs, in rupees.
    """

    dau: float
    bonus: float


def policy_effect(world: World, control: np.ndarray, treatment: np.ndarray) -> PolicyEffect:
    """The effect of one rule against another, averaged over who has registered by the offer's end.

    Whoever registers while it runs counts from that day on.

    Args:
        world: The world.
        control: Whom the one rule offers, by number, shape (num_users,).
        treatment: Whom the other one offers.
    """
    days = effects.offer_days(world)
    active_days = bonus = 0.0
    num_days = num_users = 0
    for block in range(world.num_blocks):
        users = users_of(world, block)
        one, other = (expected(world, users, mask[users.number]) for mask in (control, treatment))
        active_days += float((other.active_days - one.active_days).sum())
        bonus += float((other.bonus - one.bonus).sum())
        since = (users.registered - world.first).clip(min=days.start)
        num_days += int((days.stop - since).clip(min=0).sum())
        num_users += int((since < days.stop).sum())
    return PolicyEffect(active_days / num_days, bonus / num_users)


def event_effect(world: World, users: Users, columns: Collection[str]) -> np.ndarray:
    """What some event columns did to activity: P(active) as it was, less what it would have been.

    Args:
        world: The world.
        users: A block of its users.
        columns: Event columns that the other calendar has zeros in.

    Returns:
        float32 of shape (N, num_days).
    """
    events = context_of(world).as_it_came.copy()
    events[:, [COLUMN[name] for name in columns]] = 0
    would_be = probability(world, users, events=events)
    return np.asarray(probability(world, users) - would_be)
