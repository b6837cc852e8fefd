"""What stands in the files of a platform, found out without what erasing is made of."""

import json
from pathlib import Path

import pyarrow.parquet as pq

from lumos.delta import read
from lumos.erase.places import Place, Users, places
from lumos.recipes import load
from lumos.tables import table_uri
from tests.conftest import RECIPE, World
from tests.serve.lake import DATES

USER = "m-003é"
GYM = load(RECIPE)
YESTERDAY, TODAY = DATES


def uri(world: World, name: str) -> str:
    return table_uri(world.settings, GYM, name)


def naming(home: Path, user: str) -> list[str]:
    """Files that name the user: all of them are read, by nothing that erasing is made of."""
    texts = (user, json.dumps(user)[1:-1], json.dumps(json.dumps(user)[1:-1])[1:-1])
    found = []
    for path in sorted(home.rglob("*")):
        if path.is_file() and not path.is_relative_to(home / "spark"):
            text = path.read_bytes().decode(errors="replace")
            # One that a writer was killed at is no Parquet, and has only its bytes.
            if path.suffix == ".parquet" and text.endswith("PAR1"):
                text = str(pq.ParquetFile(path).read().to_pylist())
            if any(each in text for each in texts):
                found.append(str(path.relative_to(home)))
    return found


def rows(world: World, *, without: str | None = None) -> dict[str, list[str]]:
    """All rows of all tables with users, in an order of their own."""
    found = {}
    for place in places(GYM):
        table = read(place.uri(world.settings, GYM))
        if table is not None and place.scrubbed is None:
            others = place.without(table, Users((without or "nobody",)))
            found[place.table] = sorted(map(str, others.to_pylist()))
    return found


def about_users() -> list[Place]:
    """Places of which whole rows go."""
    return [place for place in places(GYM) if place.scrubbed is None]
