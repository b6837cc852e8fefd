"""Accio: stream a Delta table of one row a user into PyTorch. `docs/accio.md` is its guide."""

from lumos.accio.batch import RaggedBatch, densify
from lumos.accio.events import EventCalendar
from lumos.accio.loader import Accio, Sampling
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
