"""A small platform with something of every user in every kind of table."""

import json
import os
from pathlib import Path

import pyarrow as pa

from lumos.delta import append, read, replace
from lumos.overrides import override
from lumos.tables import ALERTS, alerts_uri, tables
from tests.conftest import World
from tests.erase.looking import DATES, GYM, TODAY, USER, uri
from tests.serve.lake import write_lake
from tests.serve.models import crown, register
from tests.serve.publications import with_column


def published_twice(home: Path) -> World:
    """Two days scored and published, the second one twice; and embeddings.

    The environment must be that of the world in ``home`` already.
    """
    world = write_lake(home, num_users=60)
    register(world, seed=1)
    world.run("evaluate")
    crown(world, "1")
    for date in DATES:
        for verb in ("score", "publish", "embed"):
            world.run(verb, date=date)
    # Of the intervals of another level.
    other = override(GYM, {"calibration.interval_level": 0.5})
    world.run("publish", date=TODAY, recipe=other, force=True)
    return world


def mention(world: World) -> None:
    """Let the user stand also where sentences and rejected rows name them, and on a page."""
    said = f"activity: 2 rows, e.g. user_id {USER}, day {TODAY}"
    metrics = read(uri(world, "metrics"))
    assert metrics is not None
    replace(
        uri(world, "metrics"), with_column(metrics, "message", [said] * len(metrics)), where=None
    )
    alerts = pa.schema([field.with_nullable(True) for field in ALERTS.arrow_schema()])
    append(alerts_uri(world.settings), pa.Table.from_pylist([{"message": said}], schema=alerts))
    rejected = {
        "job": "aggregate",
        "day": TODAY,
        "reason": "late",
        "raw_table": "checkins",
        "row": json.dumps({"member": USER}),
        "num_rows": 1,
    }
    schema = tables(GYM)["quarantine"].arrow_schema(GYM)
    rows = pa.Table.from_pylist([rejected], schema=schema)
    replace(uri(world, "quarantine"), rows, where=None, partition=("job", "day"))
    page = world.home / "reports" / GYM.name / "page.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(said, encoding="utf-8")


def enter(world: World) -> World:
    """Let this process work on the world, as its own processes do."""
    os.environ.update({k: v for k, v in world.environment.items() if k != "PYTHONPATH"})
    return world
