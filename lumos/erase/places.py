"""Where users are named: by which column of which contract table, and of which raw table."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from lumos.config import Recipe
from lumos.tables import tables


@dataclass(frozen=True)
class Place:
    """A contract table with rows about users.

    Attributes:
        table: Its name.
        columns: What ``users_of`` must see.
        users_of: The user that each row is about, as strings; null where it is about none.
        skipped: Files with this in their path hold no users.
    """

    table: str
    columns: tuple[str, ...]
    users_of: Callable[[pa.Table], pa.ChunkedArray]
    skipped: str | None = None


def places(recipe: Recipe) -> tuple[Place, ...]:
    """Every contract table that has rows about users."""
    found = [
        Place(table.name, ("user_id",), lambda rows: rows["user_id"])
        for table in tables(recipe).values()
        if "user_id" in table.column_names
    ]
    user_column = {raw.name: raw.user for raw in recipe.raw if raw.user}
    # What `sequences` rejects came from there.
    user_column["activity"] = "user_id"
    rejected = partial(_rejected, user_column)
    return (
        *found,
        Place("embeddings", ("id",), lambda rows: rows["id"], skipped="kind=day/"),
        Place("quarantine", ("raw_table", "row"), rejected),
    )


def raw_columns(recipe: Recipe) -> Mapping[str, tuple[str, ...]]:
    """By raw table, the columns that name users: those called as the users of a fact table are."""
    names = {raw.user for raw in recipe.raw if raw.user}
    found = {raw.name: tuple(sorted(names & set(raw.columns))) for raw in recipe.raw}
    return {name: columns for name, columns in found.items() if columns}


def _rejected(user_column: Mapping[str, str], rows: pa.Table) -> pa.ChunkedArray:
    """Of rejected rows, which are kept whole as JSON."""
    pairs: Sequence[tuple[str, str]] = list(
        zip(rows["raw_table"].to_pylist(), rows["row"].to_pylist(), strict=True)
    )
    users = [_user(text, user_column.get(raw_table)) for raw_table, text in pairs]
    return pa.chunked_array([pa.array(users, pa.string())])


def _user(text: str, column: str | None) -> str | None:
    try:
        value = json.loads(text).get(column)
    except (ValueError, AttributeError):  # of no shape that a verb of ours writes
        return None
    return None if value is None else str(value)
