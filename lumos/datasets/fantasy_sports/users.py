"""Who the users are: nine static columns, and the hidden traits that make them do what they do.

Traits are drawn from a user's attributes where plain sense ties the two (a fan of the home city,
a rich phone and a large stake), so that static features are worth something, and have a part of
their own that only a user's history shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from lumos.datasets.fantasy_sports.context import COLUMN, SPORTS, context_of
from lumos.datasets.fantasy_sports.fixtures import CITIES, CITY_FANS, HOME_NATION
from lumos.datasets.fantasy_sports.world import BLOCK_USERS, PEOPLE, SPELLS, World, user_ids

# What a user may care for; ``Users.liking`` has one column for each.
INTERESTS = (*SPORTS, *CITIES, HOME_NATION)
_MEAN_LIKING = {"t20": 1.0, "odi": 0.7, "test": 0.5, "football": 0.45, "kabaddi": 0.3}

_GENDERS = {"male": 0.72, "female": 0.16, None: 0.12}
_TIERS = {"tier_1": 0.3, "tier_2": 0.34, "tier_3": 0.36}
_DEVICES = {"android_budget": 0.55, "android_premium": 0.33, "ios": 0.12}
_CHANNELS = {"organic": 0.34, "referral": 0.24, "social_advert": 0.27, "tv_advert": 0.15}
_LANGUAGES = {"hindi": 0.5, "english": 0.32, "regional": 0.18}
_PAYMENTS = {"upi": 0.58, "card": 0.12, "wallet": 0.1, None: 0.2}
STATIC_COLUMNS = (
    "gender", "region", "city_tier", "language", "device", "channel", "payment_method",
    "favourite_city", "age_at_registration",
)  # fmt: skip

# Log-odds of activity, and log of stakes, that come with an attribute.
_KEENER = {"organic": 0.25, "referral": 0.3, "social_advert": -0.35, "tv_advert": -0.1}
_RICHER = {"tier_1": 0.35, "tier_2": 0.0, "tier_3": -0.25, "android_budget": -0.25,
           "android_premium": 0.15, "ios": 0.6}  # fmt: skip
_KEENNESS = -2.25  # so that about a tenth of all days are active
_MAX_SPELLS = 8
_FOR_GOOD = 0.15  # share of the absences from which a user never returns


@dataclass(frozen=True)
class Users:
    """A block of users, one entry each; the last block of a world may be short.

    Attributes:
        number: int64.
        user_id: Bytes of twelve characters.
        registered: int64 day number.
        static: Values of each static column, ``None`` or NaN where missing.
        liking: float32, how much each of :data:`INTERESTS` moves the user; shape (N, K).
        keenness: Log-odds of activity on a day with nothing on.
        decline: Log-odds lost in each year since registration.
        asleep_from, asleep_to: Day numbers of spells of dormancy, the end not included; shape
            (N, S).
        response: How much an offer moves the user: 1 on average.
        stake: Log of how freely the user spends.
        busy: Log of how long and often the user plays.
    """

    number: np.ndarray
    user_id: np.ndarray
    registered: np.ndarray
    static: Mapping[str, np.ndarray]
    liking: np.ndarray
    keenness: np.ndarray
    decline: np.ndarray
    asleep_from: np.ndarray
    asleep_to: np.ndarray
    response: np.ndarray
    stake: np.ndarray
    busy: np.ndarray

    def __len__(self) -> int:
        return len(self.number)

    def first(self, size: int) -> Self:
        """The first users of the block."""
        return self._cut(slice(size))

    def until(self, last_day: int) -> Self:
        """Those who have registered by this day number."""
        return self._cut(self.registered <= last_day)

    def _cut(self, kept: slice | np.ndarray) -> Self:
        cut = {name: values[kept] for name, values in vars(self).items() if name != "static"}
        static = {name: values[kept] for name, values in self.static.items()}
        return type(self)(static=static, **cut)


def users_of(world: World, block: int) -> Users:
    """The users of one block of a world."""
    return whole_block(world, block).first(len(world.numbers(block)))


def whole_block(world: World, block: int) -> Users:
    """The users of a block, also those that only a larger world has."""
    number = block * BLOCK_USERS + np.arange(BLOCK_USERS)
    chance = world.chance(PEOPLE, block)
    registered = _registrations(world, chance)
    static, favourite = _static(chance)
    asleep_from, asleep_to = _spells(world.chance(SPELLS, block), registered)
    normal = chance.normal(size=(3, BLOCK_USERS))
    richer = _looked_up(static["city_tier"], _RICHER) + _looked_up(static["device"], _RICHER)
    liking = _liking(chance, favourite, static["age_at_registration"])
    _left_out(chance, static)
    return Users(
        number=number,
        user_id=user_ids(number),
        registered=registered,
        static=static,
        liking=liking,
        keenness=_KEENNESS + _looked_up(static["channel"], _KEENER) + 1.1 * normal[0],
        decline=chance.exponential(0.3, BLOCK_USERS),
        asleep_from=asleep_from,
        asleep_to=asleep_to,
        response=chance.exponential(1.0, BLOCK_USERS),
        stake=richer + 0.8 * normal[1],
        busy=0.2 * normal[0] + 0.4 * normal[2],
    )


def _registrations(world: World, chance: np.random.Generator) -> np.ndarray:
    """Day numbers: twice as many a day while the premier league is on, more for a world cup."""
    came = context_of(world).as_it_came
    league = came[:, COLUMN["num_league"]] > 0
    cup = came[:, COLUMN["num_world_cup"]] > 0
    upto = np.cumsum(1 + 1.0 * league + 0.6 * cup)
    drawn = chance.random(BLOCK_USERS) * upto[-1]
    return np.asarray(world.first + np.searchsorted(upto, drawn, "right"))


def _static(chance: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The static columns, nothing missing yet, and the city that each user is a fan of."""
    found = {
        "gender": _chosen(chance, _GENDERS),
        "region": _chosen(chance, CITY_FANS),
        "city_tier": _chosen(chance, _TIERS),
        "language": _chosen(chance, _LANGUAGES),
        "device": _chosen(chance, _DEVICES),
        "channel": _chosen(chance, _CHANNELS),
        "payment_method": _chosen(chance, _PAYMENTS),
    }
    at_home = chance.random(BLOCK_USERS) < 0.6
    favourite = np.where(at_home, found["region"], _chosen(chance, CITY_FANS))
    found["favourite_city"] = favourite.copy()
    age = np.floor(18 + chance.gamma(2.2, 5.5, BLOCK_USERS)).clip(max=80)
    found["age_at_registration"] = age
    return found, favourite


def _left_out(chance: np.random.Generator, static: dict[str, np.ndarray]) -> None:
    """Forget what a third of the users never said of their city, and some of their age."""
    static["favourite_city"][chance.random(BLOCK_USERS) < 0.35] = None
    static["age_at_registration"][chance.random(BLOCK_USERS) < 0.05] = np.nan


def _chosen(chance: np.random.Generator, shares: Mapping[Any, float]) -> np.ndarray:
    names = np.array([*shares], object)
    return names[chance.choice(len(names), BLOCK_USERS, p=[*shares.values()])]


def _looked_up(names: np.ndarray, values: Mapping[str, float]) -> np.ndarray:
    return np.array([values[name] for name in names])


def _liking(chance: np.random.Generator, favourite: np.ndarray, age: np.ndarray) -> np.ndarray:
    """Many care a little, few a lot: exponential, one city each, older users for long formats."""
    liking = np.zeros((BLOCK_USERS, len(INTERESTS)), np.float32)
    older = {"odi": 0.5, "test": 1.0, "football": -1.0}
    for column, name in enumerate(INTERESTS):
        mean = _MEAN_LIKING.get(name, 1.0) * (age / 30) ** older.get(name, 0.0)
        strength = chance.exponential(1.0, BLOCK_USERS) * mean
        liking[:, column] = np.where(favourite == name, strength, 0) if name in CITIES else strength
    return liking


def _spells(chance: np.random.Generator, registered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First day and first day after of each spell of dormancy, int64; the last may have no end."""
    shape = (BLOCK_USERS, _MAX_SPELLS)
    awake = 10 + chance.exponential(1.0, shape) * chance.gamma(2.0, 90.0, BLOCK_USERS)[:, None]
    asleep = 7 + chance.exponential(70.0, shape)
    asleep[chance.random(shape) < _FOR_GOOD] = 1e6
    ends = registered[:, None] + np.cumsum(awake + asleep, axis=1).astype(np.int64)
    return ends - asleep.astype(np.int64), ends
