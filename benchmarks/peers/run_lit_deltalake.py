"""lit-deltalake: rows as it documents, or Arrow batches through a method it lets one override."""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import torch
from lit_deltalake.dataloaders import DeltaDataLoader
from lit_deltalake.datasets import DeltaIterableDataset
from lit_deltalake.readers.delta_rs import DeltaRsReader
from lit_deltalake.readers.types import DeltaScan

from benchmarks.peers.runner import CORES, main
from benchmarks.peers.window import COLUMNS, Spec, Windows, cut, cut_shuffled, users_of_rows

VARIANTS = {
    "rows": f"{CORES} workers, shuffle buffer of 4,096 rows, windows cut in collate_fn",
    "rows-worker": "as rows, 1 worker",
    "arrow": "1 worker, transform_shard overridden: windows cut from each Arrow batch, permuted",
    "arrow-workers": f"as arrow, {CORES} workers",
}
_SHUFFLE_ROWS = 4096


class ArrowWindows(DeltaIterableDataset):
    """Windows of whole Arrow batches: never a Python object a row.

    The library's docstring lets `transform_shard` be overridden "to customize read-batch-level
    conversion"; it is the only way round its `to_pylist`.
    """

    spec: Spec

    def transform_shard(self, read_batch: pa.RecordBatch, *_: int) -> Iterator[tuple[Any, ...]]:
        """One sample, a batch of windows, for each Arrow batch."""
        windows = cut_shuffled(read_batch, self.spec)
        yield (
            windows.user_id,
            # Tensors travel to the main process in shared memory.
            torch.from_numpy(windows.splits),
            torch.from_numpy(windows.offset),
            torch.from_numpy(windows.values),
        )


def same(sample: object) -> object:
    """A sample is a batch already."""
    return sample


def collate(rows: list[dict], spec: Spec) -> Windows:
    """Windows of a batch of rows, all at once."""
    return cut(users_of_rows(rows), spec)


def batches(arguments: argparse.Namespace, spec: Spec) -> Iterator[Windows]:
    """Batches of compact windows."""
    is_arrow = arguments.variant.startswith("arrow")
    dataset = (ArrowWindows if is_arrow else DeltaIterableDataset)(
        arguments.uri,
        reader=DeltaRsReader(),
        scan=DeltaScan(
            arguments.uri,
            columns=COLUMNS,
            version=arguments.version,
            batch_size=arguments.batch_size,
        ),
        shuffle_buffer_size=0 if is_arrow else _SHUFFLE_ROWS,
        shuffle_seed=spec.seed,
    )
    dataset.spec = spec
    loader = DeltaDataLoader(
        dataset,
        batch_size=None if is_arrow else arguments.batch_size,
        num_workers=CORES if arguments.variant in {"rows", "arrow-workers"} else 1,
        prefetch_factor=4,
        multiprocessing_context="spawn",  # as its README has it
        collate_fn=same if is_arrow else partial(collate, spec=spec),
    )
    for batch in loader:
        if isinstance(batch, Windows):
            yield batch
        else:
            yield Windows(batch[0], *(tensor.numpy() for tensor in batch[1:]))


if __name__ == "__main__":
    sys.exit(main("lit-deltalake", VARIANTS, batches))
