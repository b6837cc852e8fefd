"""Rows on their way from users to buckets and days: written once a shard, read once a key.

Users are made in the order of their numbers, and the tables want them by hash or by day. A shard
is written as one Arrow file with a batch for each key, of which any can be read alone; so neither
side ever holds more than a shard or a key in memory.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import ipc


def write_parts(path: Path, rows: pa.Table, key: np.ndarray, num_keys: int) -> None:
    """Write a shard.

    Args:
        path: The file, which appears only when it is whole.
        rows: Sorted by key.
        key: Of each row, ascending, from 0 to ``num_keys - 1``.
        num_keys: How many batches the file gets, some of them empty.
    """
    batch = pa.RecordBatch.from_struct_array(rows.to_struct_array().combine_chunks())
    edges = np.searchsorted(key, np.arange(num_keys + 1)).tolist()
    unfinished = path.with_suffix(".part")
    options = ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with ipc.new_file(str(unfinished), rows.schema, options=options) as file:
        for start, stop in itertools.pairwise(edges):
            file.write_batch(batch.slice(start, stop - start))
    unfinished.rename(path)


def read_part(paths: Iterable[Path], key: int) -> pa.Table:
    """The rows of one key, shard after shard."""
    batches = []
    for path in paths:
        with pa.memory_map(str(path)) as source:
            batches.append(ipc.open_file(source).get_batch(key))
    return pa.Table.from_batches(batches)
