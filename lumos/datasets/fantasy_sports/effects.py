"""The causal laws, as numbers: what the calendar and an offer add to activity and to amounts.

Activity is logistic: the log-odds that a user is active on a day are a sum, and everything here
is a term of it. Amounts are multiplicative: a *lift* is added to the logarithm of a mean. Each
number was chosen for a plausible size; docs/fantasy_sports.md says what speaks for it.
"""

import datetime as dt
import functools
import hashlib

import numpy as np

from lumos.calendar import calendar_columns
from lumos.datasets.fantasy_sports.context import COLUMN, EVENT_COLUMNS, SPORTS
from lumos.datasets.fantasy_sports.fixtures import CITIES, HOME_NATION
from lumos.datasets.fantasy_sports.users import INTERESTS
from lumos.datasets.fantasy_sports.world import World
from lumos.dates import day_number

COUNTRY = "IN"
# Log-odds for each unit of a user's liking: of a sport for each ln(1 + matches), since a second
# match adds less than the first; of a side for each match that it plays.
PULLS = {
    "t20": 0.6, "odi": 0.5, "test": 0.25, "football": 0.25, "kabaddi": 0.25,
    **dict.fromkeys(CITIES, 0.7), HOME_NATION: 0.4,
}  # fmt: skip
# Log-odds for all users alike, for each unit of an event column.
COMMON_PULLS = {
    "num_evening": 0.05, "num_openers": 0.2, "num_knockouts": 0.15, "num_finals": 0.3,
    "num_free_to_air": 0.15, "num_league": 0.25, "num_world_cup": 0.15, "num_overseas": -0.2,
    "prize_pool": 0.01,
}  # fmt: skip
WEEKEND_PULL, HOLIDAY_PULL = 0.2, 0.15
# Log of minutes, contests and deposits, for each unit of an event column.
LIFTS = {"num_knockouts": 0.1, "num_finals": 0.25, "prize_pool": 0.01}
# What an offer does, on each day of its experiment, to a user of average response.
OFFER_PULL, OFFER_LIFT = 0.3, 0.1
OFFER_NAME, OFFER_START, OFFER_DAYS = "bonus_offer", dt.date(2024, 10, 7), 28
OFFER_VARIANTS = ("control", "target")


def interest_signals(events: np.ndarray) -> np.ndarray:
    """What the calendar offers to each interest.

    Args:
        events: Event columns of some days, shape (D, 32).

    Returns:
        float32 of shape (D, K): times ``Users.liking`` it is log-odds of activity.
    """
    signals = [
        PULLS[name]
        * (
            np.log1p(events[:, COLUMN[f"num_{name}"]])
            if name in SPORTS
            else events[:, COLUMN[f"{name}_plays"]]
        )
        for name in INTERESTS
    ]
    return np.stack(signals, axis=1).astype(np.float32)


def common_pull(world: World, events: np.ndarray) -> np.ndarray:
    """Log-odds that the world's days add for everyone, shape (num_days,)."""
    return np.asarray(_pull_of_free_days(world) + events @ _weights(COMMON_PULLS))


@functools.lru_cache(maxsize=4)
def _pull_of_free_days(world: World) -> np.ndarray:
    free = calendar_columns(
        ("saturday", "sunday", "holiday"), world.first_day, world.num_days, COUNTRY
    )
    weights = np.array([WEEKEND_PULL, WEEKEND_PULL, HOLIDAY_PULL], np.float32)
    return np.asarray(free @ weights)


def lift(events: np.ndarray) -> np.ndarray:
    """What the calendar adds to the logarithm of mean amounts, shape (D,)."""
    return np.asarray(events @ _weights(LIFTS))


def _weights(by_column: dict[str, float]) -> np.ndarray:
    return np.array([by_column.get(name, 0.0) for name in EVENT_COLUMNS], np.float32)


def offer_days(world: World) -> slice:
    """The days of the offer's experiment as places among the world's days."""
    start = day_number(OFFER_START) - world.first
    first, last = (min(max(day, 0), world.num_days) for day in (start, start + OFFER_DAYS))
    return slice(first, last)


def is_offered(user_ids: np.ndarray) -> np.ndarray:
    """Who is in the offer's target variant: half of all, by the platform's own stable hash.

    The rule is that of :mod:`lumos.experiment.assignment`, which any service may compute for
    itself; here the service is the world.
    """
    heads = b"".join(
        hashlib.sha256(f"{OFFER_NAME}|".encode() + user_id).digest()[:8]
        for user_id in user_ids.tolist()
    )
    offered: np.ndarray = np.frombuffer(heads, dtype=">u8") % 10_000 >= 5_000
    return offered
