"""The gym's raw tables, made up but lawful: regulars, week-enders, quitters, newcomers.

Deterministic. Visits follow a member's own weekly habit, rise with the classes on the
timetable, and end on the day a quitter quits, so that there is something to forecast.
"""

import datetime as dt
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

FIRST_DAY = dt.date(2024, 1, 1)
BUSINESS_DATE = dt.date(2024, 5, 10)
LAST_DAY = dt.date(2024, 5, 12)  # two more days, for backfills
NUM_DAYS_TO_BUSINESS_DATE = (BUSINESS_DATE - FIRST_DAY).days + 1
NUM_MEMBERS = 90
_ZONE = ZoneInfo("Asia/Kolkata")


def write_raw(folder: Path, *, last_day: dt.date = LAST_DAY) -> None:
    """Write the four raw tables under ``folder`` (Parquet, CSV and Delta), up to ``last_day``."""
    random = np.random.default_rng(7)
    days = [FIRST_DAY + dt.timedelta(days=n) for n in range((LAST_DAY - FIRST_DAY).days + 1)]
    horizon = [FIRST_DAY + dt.timedelta(days=n) for n in range(len(days) + 30)]
    classes = pd.DataFrame({"day": horizon})
    classes["announced_on"] = [day - dt.timedelta(days=20) for day in horizon]
    classes["num_classes"] = [(6 if day.weekday() in (1, 5) else 2) for day in horizon]
    classes["is_open_day"] = [day.day == 15 for day in horizon]
    members = _members(random)
    checkins, purchases = _facts(random, members, days, classes["num_classes"].to_numpy())
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("checkins", "purchases", "members"):
        (folder / name).mkdir(exist_ok=True)
    local_day = pd.to_datetime(checkins["entered_at"]).dt.tz_convert(_ZONE).dt.date
    schema = pa.schema(
        [
            ("member", pa.string()),
            ("club", pa.string()),
            ("entered_at", pa.timestamp("us", tz="UTC")),
            ("minutes", pa.float64()),
            ("is_class", pa.bool_()),
        ]
    )
    kept = checkins[local_day <= last_day]
    rows = pa.Table.from_pandas(kept, schema=schema, preserve_index=False)
    pq.write_table(rows, folder / "checkins" / "part-0.parquet")
    bought = purchases[purchases["bought_on"] <= last_day]
    bought.to_csv(folder / "purchases" / "part-0.csv", index=False)
    members.to_csv(folder / "members" / "part-0.csv", index=False)
    announced = classes[classes["announced_on"] <= last_day]
    timetable = pa.Table.from_pandas(announced, preserve_index=False)
    write_deltalake(str(folder / "timetable"), timetable, mode="overwrite")


def _members(random: np.random.Generator) -> pd.DataFrame:
    joined = [
        FIRST_DAY + dt.timedelta(days=int(n))
        for n in np.where(random.random(NUM_MEMBERS) < 0.7, 0, random.integers(1, 110, NUM_MEMBERS))
    ]
    ages = random.integers(16, 70, NUM_MEMBERS).astype(object)
    ages[random.random(NUM_MEMBERS) < 0.2] = None
    return pd.DataFrame(
        {
            "member": [f"m-{number:03d}é" for number in range(NUM_MEMBERS)],
            "joined_on": joined,
            "plan": random.choice(["basic", "gold", None], NUM_MEMBERS),
            "age": ages,
        }
    )


def _facts(
    random: np.random.Generator,
    members: pd.DataFrame,
    days: list[dt.date],
    num_classes: np.ndarray,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    visits, purchases = [], []
    for member, joined in zip(members["member"], members["joined_on"], strict=True):
        habit = random.beta(1, 2)
        weekend = random.random() < 0.3
        quits = days[int(random.integers(20, len(days)))] if random.random() < 0.3 else None
        for index, day in enumerate(days):
            if day < joined or (quits and day >= quits):
                continue
            share = habit * (1.5 if num_classes[index] > 2 else 0.8)
            if weekend:
                share = 0.7 if day.weekday() >= 5 else 0.02
            if day != joined and random.random() > share:
                continue
            at = dt.datetime.combine(day, dt.time(int(random.integers(6, 22))), _ZONE)
            minutes = round(float(random.gamma(6, 10)), 1)
            is_class = bool(random.random() < 0.1 * num_classes[index])
            visits.append((member, "central", at.astimezone(dt.UTC), minutes, is_class))
            if random.random() < 0.2:
                purchases.append((member, day, round(float(random.gamma(2, 100)), 2)))
    columns = ["member", "club", "entered_at", "minutes", "is_class"]
    return (
        pd.DataFrame(visits, columns=columns),
        pd.DataFrame(purchases, columns=["member", "bought_on", "amount"]),
    )
