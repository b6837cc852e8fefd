"""What a block of users does: whether each is active on each day, and how much of what.

A user's days are independent given the hidden traits and spells, so the true probability of
activity is at hand for every user and day, also under another calendar or another offer.
"""

from dataclasses import dataclass

import numpy as np

from lumos.datasets.fantasy_sports import effects
from lumos.datasets.fantasy_sports.context import COLUMN, context_of
from lumos.datasets.fantasy_sports.users import Users, whole_block
from lumos.datasets.fantasy_sports.world import (
    ACTIVITY,
    AMOUNTS,
    BLOCK_USERS,
    OFFER_AMOUNTS,
    World,
)

BINARY_COLUMNS = ("active", "joined", "deposited")
CONTINUOUS_COLUMNS = (
    "num_sessions", "session_minutes", "num_contests", "num_lineups", "entry_fees", "bonus",
    "winnings", "num_deposits", "deposits", "withdrawals",
)  # fmt: skip
ACTIVITY_COLUMNS = (*BINARY_COLUMNS, *CONTINUOUS_COLUMNS)
# Limits of the platform, a day; they also bound what the raw logs of a day can hold.
MAX_SESSIONS, MAX_MINUTES, MAX_CONTESTS, MAX_AMOUNT = 50, 1_000, 500, 1_000_000

_RAMP, _RAMP_DAYS, _RAMP_ENDS = -1.2, 20.0, 100  # log-odds on the first day, and its decline
_ASLEEP = -6.0  # the odds of a dormant user are a four-hundredth of the usual
MEAN_SESSIONS, MEAN_MINUTES, MEAN_CONTESTS = 1.2, 14.0, 1.6
MEAN_DEPOSITS, MEAN_FEE, MEAN_DEPOSIT, MEAN_WITHDRAWAL = 0.15, 18.0, 120.0, 400.0
LEAST_DEPOSIT, LEAST_WITHDRAWAL = 10, 50
BONUS_SHARE, OFFER_BONUS_SHARE = 0.04, 0.12  # of the fees, paid by the platform
# Shares of active days.
_JOIN_SHARE, _JOIN_SHARE_NOTHING_ON, _WITHDRAWAL_SHARE = 0.72, 0.35, 0.04
_DEPOSIT_SHARE, _JOINED_DEPOSIT_SHARE, OFFER_DEPOSIT_SHARE = 0.06, 0.1, 0.06
_WIN_SHARE, _MEAN_WIN = 0.3, 2.5  # three entries in ten win; a quarter of all fees is kept


@dataclass(frozen=True)
class Activity:
    """Active days of a block of users, as the loader holds them.

    Attributes:
        days: int32 day numbers, ascending within a user, shape (nnz,).
        values: float32 :data:`ACTIVITY_COLUMNS`, whole numbers all, shape (nnz, 13).
        splits: int64; user i owns rows ``splits[i]:splits[i + 1]``, shape (N + 1,).
    """

    days: np.ndarray
    values: np.ndarray
    splits: np.ndarray

    @property
    def owner(self) -> np.ndarray:
        """The user of each row, as its place in the block."""
        return np.repeat(np.arange(len(self.splits) - 1), np.diff(self.splits))

    def until(self, last_day: int) -> "Activity":
        """The rows of days up to this day number."""
        kept = self.days <= last_day
        splits = np.concatenate([[0], np.cumsum(kept)])[self.splits]
        return Activity(self.days[kept], self.values[kept], splits)


def probability(
    world: World,
    users: Users,
    *,
    events: np.ndarray | None = None,
    offered: np.ndarray | None = None,
) -> np.ndarray:
    """P(active) of each user on each of the world's days, 0 before registration.

    Args:
        world: The world.
        users: A block of its users.
        events: Another calendar than the one that came, shape (num_days, 32).
        offered: Whether each user gets the offer, shape (N,); by default as randomised.

    Returns:
        float32 of shape (N, num_days).
    """
    if events is None:
        events = context_of(world).as_it_came
    if offered is None:
        offered = effects.is_offered(users.user_id)
    since = users.registered - world.first
    slope = (users.decline / 365).astype(np.float32)
    # The decline is linear in the day, so it rides in the same product as the interests.
    by_user = np.column_stack([users.liking, users.keenness + slope * since, -slope])
    everyday = np.column_stack(
        [effects.interest_signals(events), np.ones(world.num_days), np.arange(world.num_days)]
    )
    logit = by_user.astype(np.float32) @ everyday.astype(np.float32).T
    logit += effects.common_pull(world, events)
    _add_ramp(logit, since)
    logit[_is_asleep(world, users)] += _ASLEEP
    offer = (effects.OFFER_PULL * users.response * offered).astype(np.float32)
    logit[:, effects.offer_days(world)] += offer[:, None]
    np.negative(logit, out=logit)
    np.exp(logit, out=logit)
    logit += 1
    np.reciprocal(logit, out=logit)
    logit[np.arange(world.num_days) < since[:, None]] = 0
    return logit


def _add_ramp(logit: np.ndarray, since: np.ndarray) -> None:
    """A newcomer has to find out first: the log-odds rise over the first weeks."""
    num_users, num_days = logit.shape
    age = np.arange(_RAMP_ENDS)
    ramp = np.broadcast_to(_RAMP * np.exp(-age / _RAMP_DAYS), (num_users, _RAMP_ENDS))
    day = since[:, None] + age
    user = np.broadcast_to(np.arange(num_users)[:, None], day.shape)
    inside = day < num_days
    logit[user[inside], day[inside]] += ramp[inside]


def _is_asleep(world: World, users: Users) -> np.ndarray:
    """Whether each user is dormant on each day, bool of shape (N, num_days)."""
    change = np.zeros((len(users), world.num_days + 1), np.int8)
    user = np.broadcast_to(np.arange(len(users))[:, None], users.asleep_from.shape)
    for days, step in ((users.asleep_from, 1), (users.asleep_to, -1)):
        np.add.at(change, (user, (days - world.first).clip(0, world.num_days)), step)
    return np.cumsum(change[:, :-1], axis=1, dtype=np.int8) > 0


def activity_of(world: World, users: Users, *, offered: np.ndarray | None = None) -> Activity:
    """All active days of a block of users, with their 13 columns.

    An offer moves the user who gets it, on the offer's days: to everybody else, and before, the
    very same happens whoever is offered.

    Args:
        world: The world.
        users: A block of its users.
        offered: Whether each user gets the offer, shape (N,); by default as randomised.
    """
    block = int(users.number[0]) // BLOCK_USERS
    # A short last block is played whole, so that its users do what they do in a larger world.
    whole = users if len(users) == BLOCK_USERS else whole_block(world, block)
    drawn = world.chance(ACTIVITY, block).random((BLOCK_USERS, world.num_days), np.float32)
    came = drawn < probability(world, whole)
    owner, day = np.nonzero(came)
    chance = world.chance(AMOUNTS, block)
    if offered is None:
        by_hash = effects.is_offered(whole.user_id)
        values = _values(world, whole, owner, day, offered=by_hash, chance=chance)
    else:
        given = np.zeros(BLOCK_USERS, bool)
        given[: len(users)] = offered
        # All days that some offer might bring draw their amounts, from a stream of their own: so
        # nobody's depend on who else is offered.
        brought = (drawn < probability(world, whole, offered=np.ones(BLOCK_USERS, bool))) & ~came
        more = np.nonzero(brought)
        values = np.concatenate(
            [
                _values(world, whole, owner, day, offered=given, chance=chance),
                _values(
                    world, whole, *more, offered=given, chance=world.chance(OFFER_AMOUNTS, block)
                ),
            ]
        )
        owner, day = np.append(owner, more[0]), np.append(day, more[1])
        order = np.lexsort((day, owner))
        did = drawn < probability(world, whole, offered=given)
        order = order[did[owner[order], day[order]]]
        owner, day, values = owner[order], day[order], values[order]
    splits = np.searchsorted(owner, np.arange(len(users) + 1))
    days = (day[: splits[-1]] + world.first).astype(np.int32)
    return Activity(days, values[: splits[-1]], splits)


def another_draw(
    world: World,
    users: Users,
    p: np.ndarray,
    *,
    offered: np.ndarray,
    chance: np.random.Generator,
) -> Activity:
    """What a block of users might as well have done on the days of the offer.

    Args:
        world: The world.
        users: A block of its users.
        p: Their :func:`probability` on those days, shape (N, D); many draws share it.
        offered: Whether each user gets the offer, shape (N,): what ``p`` was computed by.
        chance: Where it is drawn from.
    """
    owner, place = np.nonzero(chance.random(p.shape, np.float32) < p)
    day = place + effects.offer_days(world).start
    values = _values(world, users, owner, day, offered=offered, chance=chance)
    splits = np.searchsorted(owner, np.arange(len(users) + 1))
    return Activity((day + world.first).astype(np.int32), values, splits)


def mean_bonus(world: World, users: Users, *, offered: np.ndarray) -> np.ndarray:
    """The expected bonus of each user on each day of the offer, were it an active one.

    Exact but for the platform's limits of a day, which hardly anybody reaches.

    Args:
        world: The world.
        users: A block of its users.
        offered: Whether each user gets the offer, shape (N,).

    Returns:
        Rupees, shape (N, D).
    """
    events = context_of(world).as_it_came[effects.offer_days(world)]
    is_on = events[:, COLUMN["num_matches"]] > 0
    lift = np.exp(effects.lift(events) + effects.OFFER_LIFT * offered[:, None])
    contests = np.where(is_on, _JOIN_SHARE, _JOIN_SHARE_NOTHING_ON) * (
        1 + MEAN_CONTESTS * np.exp(users.busy)[:, None] * lift
    )
    share = np.where(offered, OFFER_BONUS_SHARE, BONUS_SHARE)
    return np.asarray((share * MEAN_FEE * np.exp(users.stake))[:, None] * contests)


def _values(
    world: World,
    users: Users,
    owner: np.ndarray,
    day: np.ndarray,
    *,
    offered: np.ndarray,
    chance: np.random.Generator,
) -> np.ndarray:
    """The columns of active days, in the order of :data:`ACTIVITY_COLUMNS`.

    How much is drawn depends on the number of days alone, not on who is offered.
    """
    events = context_of(world).as_it_came
    during = np.zeros(world.num_days, bool)
    during[effects.offer_days(world)] = True
    offered = offered[owner] & during[day]
    busy, stake = np.exp(users.busy)[owner], np.exp(users.stake)[owner]
    lift = np.exp(effects.lift(events)[day] + effects.OFFER_LIFT * offered)
    is_on = events[day, COLUMN["num_matches"]] > 0
    joined = chance.random(len(day)) < np.where(is_on, _JOIN_SHARE, _JOIN_SHARE_NOTHING_ON)
    sessions = 1 + _whole(chance, MEAN_SESSIONS * busy, 0.6, MAX_SESSIONS - 1)
    contests = joined * (1 + _whole(chance, MEAN_CONTESTS * busy * lift, 0.9, MAX_CONTESTS - 1))
    columns = {
        "active": np.ones(len(day)),
        "joined": joined,
        "num_sessions": sessions,
        "session_minutes": sessions + _whole(chance, MEAN_MINUTES * busy * lift, 0.7, MAX_MINUTES),
        "num_contests": contests,
        "num_lineups": joined + _whole(chance, 0.3 * (contests - joined), 0.0, MAX_CONTESTS),
        **_money(chance, contests, stake, lift, offered),
    }
    return np.column_stack([columns[name] for name in ACTIVITY_COLUMNS]).astype(np.float32)


def _money(
    chance: np.random.Generator,
    contests: np.ndarray,
    stake: np.ndarray,
    lift: np.ndarray,
    offered: np.ndarray,
) -> dict[str, np.ndarray]:
    """What the contests of active days cost and bring, and what goes in and out of the wallet."""
    size = len(contests)
    fees = _whole(chance, MEAN_FEE * stake * contests, 0.5, MAX_AMOUNT)
    bonus_share = np.where(offered, OFFER_BONUS_SHARE, BONUS_SHARE)
    wins = chance.random(size) < _WIN_SHARE
    pays_in = chance.random(size) < (
        _DEPOSIT_SHARE + _JOINED_DEPOSIT_SHARE * (contests > 0) + OFFER_DEPOSIT_SHARE * offered
    )
    payments = pays_in * (1 + _whole(chance, np.full(size, MEAN_DEPOSITS), 0.0, 9))
    paid = _whole(chance, pays_in * MEAN_DEPOSIT * stake * lift, 0.8, MAX_AMOUNT)
    takes = chance.random(size) < _WITHDRAWAL_SHARE
    taken = _whole(chance, takes * MEAN_WITHDRAWAL * stake, 0.8, MAX_AMOUNT)
    return {
        "deposited": pays_in,
        "entry_fees": fees,
        "bonus": _whole(chance, bonus_share * fees, 0.0, MAX_AMOUNT),
        "winnings": _whole(chance, wins * _MEAN_WIN * fees, 0.8, MAX_AMOUNT),
        "num_deposits": payments,
        "deposits": payments * LEAST_DEPOSIT + paid,
        "withdrawals": takes * LEAST_WITHDRAWAL + taken,
    }


def _whole(chance: np.random.Generator, mean: np.ndarray, spread: float, most: float) -> np.ndarray:
    """Whole numbers of a given mean, log-normally spread: rounded up or down by chance.

    Money is in whole rupees and time in whole minutes, so that every sum is exact.
    """
    drawn = mean
    if spread:
        noise = chance.standard_normal(len(mean), np.float32) * spread - spread**2 / 2
        drawn = mean * np.exp(noise)
    found: np.ndarray = np.floor(drawn + chance.random(len(mean), np.float32)).clip(max=most)
    return found
