"""Embeddings as arrays: to rows of `embeddings` and back, a chunk at a time.

Shape suffixes: N vectors, D their width.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lumos import ledger
from lumos.delta import open_table, predicate
from lumos.tables import table_uri
from lumos.verbs import Request

Floats = NDArray[np.float32]

USER, STATIC, DAY = "user", "static", "day"
KINDS = (USER, STATIC, DAY)
RECENT_DAYS = 28
NEVER = -1  # a day number: nobody was active on the day before 1970


@dataclass(frozen=True)
class Vectors:
    """Some rows of `embeddings`.

    Attributes:
        ids: Strings as objects, shape (N,).
        matrix_ND: float32.
        registered: int32 day numbers; ``NEVER`` for days, shape (N,).
        num_active_days: int32, of the last 28; 0 for days, shape (N,).
        last_active: int32 day numbers, or ``NEVER``, shape (N,).
    """

    ids: np.ndarray
    matrix_ND: np.ndarray
    registered: np.ndarray
    num_active_days: np.ndarray
    last_active: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: np.ndarray) -> Self:
        """Those at ``index``, numbers or a mask."""
        return type(self)(
            self.ids[index],
            self.matrix_ND[index],
            self.registered[index],
            self.num_active_days[index],
            self.last_active[index],
        )

    @classmethod
    def none(cls) -> Self:
        """No rows."""
        nothing = np.zeros(0, np.int32)
        return cls(np.zeros(0, object), np.zeros((0, 0), np.float32), nothing, nothing, nothing)

    @classmethod
    def of(cls, rows: pa.Table) -> Self:
        """From rows of the table."""
        return cls(
            ids=np.array(rows["id"].to_pylist(), object),
            matrix_ND=matrix_of(rows["embedding"]),
            registered=_day_numbers(rows["registered_on"]),
            num_active_days=rows["num_active_days"].fill_null(0).to_numpy().astype(np.int32),
            last_active=_day_numbers(rows["last_active_on"]),
        )

    @classmethod
    def concat(cls, parts: list[Self]) -> Self:
        """All of them; at least one, and none with another width."""
        parts = [part for part in parts if len(part)] or parts[:1]
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.matrix_ND for part in parts]),
            np.concatenate([part.registered for part in parts]),
            np.concatenate([part.num_active_days for part in parts]),
            np.concatenate([part.last_active for part in parts]),
        )


_COLUMNS = ["id", "registered_on", "num_active_days", "last_active_on", "embedding"]


@dataclass(frozen=True)
class Stored:
    """The embeddings of a date, at the version that the ledger names for it."""

    uri: str
    version: int
    as_of: dt.date

    @classmethod
    def of(cls, request: Request, entry: ledger.Entry) -> Self:
        """Those of an entry."""
        uri = table_uri(request.settings, request.recipe, "embeddings")
        return cls(uri, entry.version, entry.business_date)

    def chunks(self, kind: str, **where: str | int) -> Iterator[Vectors]:
        """All of a kind, in no particular order, never all in memory."""
        table = open_table(self.uri, self.version)
        if table is None:
            return
        asked = predicate(as_of=self.as_of, kind=kind, **where)
        for batch in pa.RecordBatchReader.from_stream(table.scan(_COLUMNS, asked)):
            if batch.num_rows:
                yield Vectors.of(pa.Table.from_batches([batch]))

    def read(self, kind: str, **where: str | int) -> Vectors | None:
        """The same at once, sorted by id; ``None`` where there is none."""
        parts = list(self.chunks(kind, **where))
        if not parts:
            return None
        found = Vectors.concat(parts)
        return found.take(np.argsort(found.ids))


def matrix_of(lists: pa.ChunkedArray) -> np.ndarray:
    """Lists of one length as float32 of shape (N, D)."""
    if not len(lists):
        return np.zeros((0, 0), np.float32)
    flat = lists.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat.reshape(len(lists), -1), np.float32)


def _day_numbers(dates: pa.ChunkedArray) -> np.ndarray:
    """Null is ``NEVER``."""
    return np.asarray(dates.cast(pa.int32()).fill_null(NEVER).to_numpy(), np.int32)


def list_array(matrix_ND: np.ndarray) -> pa.ListArray:
    """A row a list."""
    num, width = matrix_ND.shape
    flat = pa.array(np.ascontiguousarray(matrix_ND, np.float32).ravel(), pa.float32())
    offsets = pa.array(np.arange(num + 1, dtype=np.int32) * width, pa.int32())
    return pa.ListArray.from_arrays(offsets, flat)


def dates_array(days: np.ndarray) -> pa.Array:
    """Day numbers as dates; ``NEVER`` is null."""
    return pa.array(days.astype(np.int32), pa.int32(), mask=days == NEVER).cast(pa.date32())
