"""Accio: stream a Delta table of one row a user into PyTorch. `docs/accio.md` is its guide."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumos.accio.batch import RaggedBatch
    from lumos.accio.dense import densify
    from lumos.accio.events import EventCalendar
    from lumos.accio.loader import Accio
    from lumos.accio.stream import Sampling
    from lumos.accio.table import Columns, SequenceTable

__all__ = [
    "Accio",
    "Columns",
    "EventCalendar",
    "RaggedBatch",
    "Sampling",
    "SequenceTable",
    "densify",
]

_ROOMS = {
    "Accio": "loader",
    "Columns": "table",
    "EventCalendar": "events",
    "RaggedBatch": "batch",
    "Sampling": "stream",
    "SequenceTable": "table",
    "densify": "dense",
}


def __getattr__(name: str) -> object:
    """Import a room when it is asked for: workers have no use for torch."""
    if name not in _ROOMS:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
