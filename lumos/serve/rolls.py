"""Who stands on two lists of users, exactly, in memory that does not grow with them.

Ids are hashed to 64 bits, dealt to files by the hash, and compared file by file. Two users of fifty
million have the same hash on one day in ten thousand; then one more is counted as repeated.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from lumos.hashing import hash_ids

_NUM_FILES = 64


@dataclass(frozen=True)
class Compared:
    """Numbers of users: expected, on both lists, on the second only, and twice on the second."""

    num_expected: int
    num_met: int
    num_strangers: int
    num_repeated: int


class Roll:
    """A list of users, kept in files of a folder of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._paths = [folder / str(number) for number in range(_NUM_FILES)]

    def add(self, user_ids: pa.Array) -> None:
        """Append users; their ids are strings without nulls."""
        hashes = hash_ids(user_ids)
        file = (hashes % np.uint64(_NUM_FILES)).astype(np.int64)
        order = np.argsort(file, kind="stable")
        edges = np.searchsorted(file[order], np.arange(_NUM_FILES + 1))
        for number, path in enumerate(self._paths):
            with path.open("ab") as stream:
                stream.write(hashes[order[edges[number] : edges[number + 1]]].tobytes())

    def files(self) -> list[np.ndarray]:
        """Hashes, uint64, by file; read when asked for one by one."""
        return [np.memmap(p, np.uint64) if p.exists() and p.stat().st_size else np.zeros(0, "u8")
                for p in self._paths]  # fmt: skip


def compare(expected: Roll, found: Roll) -> Compared:
    """How the second list stands to the first one."""
    counts = np.zeros(4, np.int64)
    for wanted, got in zip(expected.files(), found.files(), strict=True):
        wanted_once, got_once = np.unique(wanted), np.unique(got)
        met = len(np.intersect1d(wanted_once, got_once, assume_unique=True))
        counts += len(wanted_once), met, len(got_once) - met, len(got) - len(got_once)
    return Compared(*counts.tolist())
