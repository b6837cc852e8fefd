"""Where users are named: by which column of which contract table, and of which raw table."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos.config import Recipe
from lumos.settings import Settings
from lumos.tables import ALERTS, alerts_uri, table_uri, tables

ERASED = "(erased)"


@dataclass(frozen=True)
class Users:
    """Whom to forget, by the ids of `users`."""

    ids: tuple[str, ...]

    def __len__(self) -> int:
        """How many."""
        return len(self.ids)

    @cached_property
    def array(self) -> pa.Array:
        """As Arrow's kernels take them."""
        return pa.array(self.ids, pa.string())

    @cached_property
    def in_sentences(self) -> re.Pattern[str]:
        """What our messages call them (``user_id ID``), also where the message stands in JSON."""
        spelled = {re.escape(form) for one in self.ids for form in (one, json.dumps(one)[1:-1])}
        return re.compile(rf"\buser_id (?:{'|'.join(sorted(spelled))})(?=[\s,;:.)\"\\]|$)")


@dataclass(frozen=True)
class Place:
    """A contract table that may name users.

    Attributes:
        table: Its name.
        columns: That name them.
        is_theirs: Of each row, whether it names one of the users, as booleans.
        is_said: Whether a text, such as the least value of a column in a log, names one.
        scrubbed: The column of which only the names go; else whole rows do.
        skipped: Files with this in their path hold no users.
    """

    table: str
    columns: tuple[str, ...]
    is_theirs: Callable[[pa.Table, Users], pa.Array]
    is_said: Callable[[str, Users], bool]
    scrubbed: str | None = None
    skipped: str | None = None

    def uri(self, settings: Settings, recipe: Recipe) -> str:
        """Where it lies."""
        if self.table == ALERTS.name:
            return alerts_uri(settings)
        return table_uri(settings, recipe, self.table)

    def without(self, rows: pa.Table, users: Users) -> pa.Table:
        """The rows without the users."""
        theirs = self.is_theirs(rows, users)
        if self.scrubbed is None:
            return rows.filter(pc.invert(theirs))
        texts = rows[self.scrubbed].to_pylist()
        clean = [text and users.in_sentences.sub(f"user_id {ERASED}", text) for text in texts]
        place = rows.schema.get_field_index(self.scrubbed)
        return rows.set_column(place, rows.schema.field(place), [clean])


def places(recipe: Recipe) -> tuple[Place, ...]:
    """Every contract table that may name users."""
    about_users = [
        Place(table.name, ("user_id",), partial(_in_column, "user_id"), _is_one)
        for table in tables(recipe).values()
        if "user_id" in table.column_names
    ]
    user_column = {raw.name: raw.user for raw in recipe.raw if raw.user}
    # What `sequences` rejects came from there.
    user_column["activity"] = "user_id"
    return (
        *about_users,
        Place("embeddings", ("id",), partial(_in_column, "id"), _is_one, skipped="kind=day/"),
        Place(
            "quarantine",
            ("raw_table", "row"),
            partial(_in_rejected, user_column),
            partial(_is_in_json, frozenset(user_column.values())),
        ),
        # Checks give examples.
        Place("metrics", ("message",), partial(_in_text, "message"), _is_mentioned, "message"),
        Place("ledger", ("report",), partial(_in_text, "report"), _is_mentioned, "report"),
        Place(ALERTS.name, ("message",), partial(_in_text, "message"), _is_mentioned, "message"),
    )


def raw_columns(recipe: Recipe) -> Mapping[str, tuple[str, ...]]:
    """By raw table, the columns that name users: those called as the users of a fact table are."""
    names = {raw.user for raw in recipe.raw if raw.user}
    found = {raw.name: tuple(sorted(names & set(raw.columns))) for raw in recipe.raw}
    return {name: columns for name, columns in found.items() if columns}


def _in_column(name: str, rows: pa.Table, users: Users) -> pa.Array:
    return pc.is_in(pc.cast(rows[name], pa.string()), users.array).combine_chunks()


def _is_one(text: str, users: Users) -> bool:
    return text in users.ids


def _in_text(name: str, rows: pa.Table, users: Users) -> pa.Array:
    found = [bool(text and _is_mentioned(text, users)) for text in rows[name].to_pylist()]
    return pa.array(found, pa.bool_())


def _is_mentioned(text: str, users: Users) -> bool:
    return users.in_sentences.search(text) is not None


def _in_rejected(user_column: Mapping[str, str], rows: pa.Table, users: Users) -> pa.Array:
    """Of rejected rows, which are kept whole as JSON."""
    pairs = zip(rows["raw_table"].to_pylist(), rows["row"].to_pylist(), strict=True)
    named = [_user(text, user_column.get(raw_table)) for raw_table, text in pairs]
    return pa.array(np.isin(np.array(named, object), np.array(users.ids, object)))


def _user(text: str, column: str | None) -> str:
    try:
        value = json.loads(text).get(column)
    except (ValueError, AttributeError):  # of no shape that a verb of ours writes
        return ""
    return "" if value is None else str(value)


def _is_in_json(columns: frozenset[str], text: str, users: Users) -> bool:
    """Whether a rejected row is one of theirs, if only its beginning is there."""
    names = "|".join(sorted(map(re.escape, columns)))
    values = "|".join(re.escape(form) for one in users.ids for form in (json.dumps(one), one))
    plain = "|".join(re.escape(f'"{one}"') for one in users.ids)
    return re.search(rf'"(?:{names})":\s*(?:{values}|{plain})(?=[,}}]|$)', text) is not None
