"""Accio: stream a Delta table of one row a user into PyTorch. `docs/accio.md` is its guide."""

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
