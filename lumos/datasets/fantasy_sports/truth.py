"""What is true of a world and can only be estimated from its data.

Besides these, :func:`~lumos.datasets.fantasy_sports.activity.probability` is the truth that every
forecast of activity is after, under the calendar that came or under any other.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from lumos.datasets.fantasy_sports import effects
from lumos.datasets.fantasy_sports.activity import probability
from lumos.datasets.fantasy_sports.context import COLUMN, context_of
from lumos.datasets.fantasy_sports.users import Users
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
    days = effects.offer_days(world)
    everybody = np.ones(len(users), bool)
    without, with_offer = (
        probability(world, users, offered=offered)[:, days].sum(axis=1, dtype=np.float64)
        for offered in (~everybody, everybody)
    )
    return OfferEffect(effects.is_offered(users.user_id), without, with_offer)


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
