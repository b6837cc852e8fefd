"""The recipe: what a fantasy-sports platform tells LUMOS about itself."""

from lumos.config import (
    ActivityColumn,
    EventColumn,
    RawTable,
    Recipe,
    SqlType,
    StaticColumn,
    Task,
)
from lumos.datasets.fantasy_sports.activity import BINARY_COLUMNS, CONTINUOUS_COLUMNS
from lumos.datasets.fantasy_sports.context import EVENT_COLUMNS
from lumos.datasets.fantasy_sports.effects import (
    COUNTRY,
)
from lumos.datasets.fantasy_sports.users import STATIC_COLUMNS
from lumos.datasets.fantasy_sports.world import World

TIMEZONE = "Asia/Kolkata"
_UNITS = {
    "num_sessions": "sessions", "session_minutes": "minutes", "num_contests": "contests",
    "num_lineups": "line-ups", "num_deposits": "deposits",
}  # fmt: skip
_MEANINGS = {
    "active": "opened the app",
    "joined": "joined a contest",
    "deposited": "paid into the wallet",
    "num_lineups": "distinct teams picked",
    "entry_fees": "of the contests joined, the bonus included",
    "bonus": "the part of the fees that the platform paid: what offers cost",
}


def recipe() -> Recipe:
    """Who plays in the next week, how much, and who pays in?

    The calendar columns of :mod:`lumos.calendar` are used beside the 32 event columns.
    ``sql_parameters`` hold the size and the seed of the world that ``lumos land`` writes; the
    SELECTs need neither, but tables of another world are thereby made by another recipe.
    """
    return Recipe(
        name="fantasy_sports",
        description="A made-up fantasy-sports platform with known laws, 2021-2024",
        dataset="fantasy_sports",
        sql_parameters={"num_users": 2_000, "seed": 0},
        timezone=TIMEZONE,
        country=COUNTRY,
        raw=_raw_tables(),
        activity=(
            *(
                ActivityColumn(name=name, kind="binary", unit="0 or 1", description=_MEANINGS[name])
                for name in BINARY_COLUMNS
            ),
            *(
                ActivityColumn(
                    name=name,
                    kind="continuous",
                    unit=_UNITS.get(name, "INR"),
                    description=_MEANINGS.get(name, ""),
                )
                for name in CONTINUOUS_COLUMNS
            ),
        ),
        active="active",
        events=tuple(
            EventColumn(name=name, unit="crore INR" if name == "prize_pool" else "matches")
            for name in EVENT_COLUMNS
        ),
        static=(
            *(StaticColumn(name=name, kind="categorical") for name in STATIC_COLUMNS[:-1]),
            StaticColumn(name=STATIC_COLUMNS[-1], kind="continuous", unit="years"),
        ),
        history_days=364,  # whole weeks; the annual cycle
        horizon_days=7,
        tasks=(
            Task(name="active_7d", kind="any", column="active", window_days=7),
            Task(name="join_7d", kind="any", column="joined", window_days=7),
            Task(name="deposit_7d", kind="any", column="deposited", window_days=7),
            Task(name="deposits_7d", kind="sum", column="deposits", window_days=7),
            Task(name="minutes_7d", kind="sum", column="session_minutes", window_days=7),
        ),
    )


def world_of(recipe: Recipe) -> World:
    """The world that a recipe's ``sql_parameters`` name.

    Raises:
        ValueError: They are no whole numbers, or no world has such a size.
    """
    wanted = {name: recipe.sql_parameters.get(name) for name in ("num_users", "seed")}
    if not all(isinstance(value, int) for value in wanted.values()):
        msg = f"sql_parameters of recipe {recipe.name}: {wanted} are not whole numbers"
        raise ValueError(msg)
    return World(num_users=int(wanted["num_users"] or 0), seed=int(wanted["seed"] or 0))


def _raw_tables() -> tuple[RawTable, ...]:
    attributes: dict[str, SqlType] = dict.fromkeys(STATIC_COLUMNS[:-1], "string")
    attributes[STATIC_COLUMNS[-1]] = "double"
    return (
        _fact("sessions", "started_at", (), {"minutes": "bigint"}),
        _fact(
            "contest_entries",
            "entered_at",
            (),
            {"lineup": "int", "fee": "bigint", "bonus": "bigint"},
        ),
        _fact("wallet", "booked_at", ("kind",), {"kind": "string", "amount": "bigint"}),
        RawTable(
            name="fixtures",
            role="reference",
            columns={
                "fixture": "string",
                "plays_on": "date",
                "start_hour": "int",
                "status": "string",
                "tournament": "string",
                "sport": "string",
                "stage": "string",
                "home": "string",
                "away": "string",
                "landed_on": "date",
            },
            landed_on="landed_on",
            key=("fixture", "landed_on"),
        ),
        RawTable(
            name="promotions",
            role="reference",
            columns={"promoted_on": "date", "prize_pool": "bigint", "landed_on": "date"},
            landed_on="landed_on",
        ),
        RawTable(
            name="members",
            role="reference",
            columns={"member": "string", **attributes, "landed_on": "date"},
            landed_on="landed_on",
            key=("member",),
        ),
    )


def _fact(
    name: str, moment: str, more_key: tuple[str, ...], numbers: dict[str, SqlType]
) -> RawTable:
    """A log of what members did: who, when, and some numbers that are never negative."""
    return RawTable(
        name=name,
        role="fact",
        columns={"member": "string", moment: "timestamp", **numbers, "landed_on": "date"},
        user="member",
        happened_at=moment,
        landed_on="landed_on",
        key=("member", moment, *more_key),
        non_negative=tuple(column for column, kind in numbers.items() if kind == "bigint"),
    )
