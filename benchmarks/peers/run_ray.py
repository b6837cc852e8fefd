"""Ray Data: `read_delta`, streamed to this process as rows or as Arrow batches."""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import ray
from pyarrow import fs

from benchmarks.peers.runner import CORES, main
from benchmarks.peers.window import COLUMNS, Spec, Windows, cut, cut_shuffled, users_of_rows

_READ = f"read_delta(shuffle=files), {CORES} CPUs"
VARIANTS = {
    "arrow": f"{_READ}, iter_batches(pyarrow), windows cut from each batch here, permuted",
    "arrow-prefetch": "as arrow, prefetch_batches=16",
    "arrow-localfs": "as arrow, pyarrow's local filesystem given to read_delta",
    "map": f"{_READ}, map_batches(pyarrow) cuts and permutes, iter_batches(pyarrow)",
    "map-localfs": "as map, pyarrow's local filesystem given to read_delta",
    "map-buffer": "as map, local_shuffle_buffer_size=4096",
    "rows": f"{_READ}, iter_rows, windows cut from each 1,024 rows here",
}
_SHUFFLE_ROWS = 4096


def batches(arguments: argparse.Namespace, spec: Spec) -> Iterator[Windows]:
    """Batches of compact windows."""
    kind, _, option = arguments.variant.partition("-")
    ray.init(
        num_cpus=CORES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=tempfile.gettempdir(),
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    local = fs.SubTreeFileSystem(arguments.uri, fs.LocalFileSystem())
    data = ray.data.read_delta(
        arguments.uri,
        version=arguments.version,
        columns=list(COLUMNS),
        shuffle="files",
        filesystem=local if option == "localfs" else None,
    )
    deliver: Callable[..., Iterator[Windows]] = {
        "arrow": cut_here,
        "map": cut_in_tasks,
        "rows": cut_rows,
    }[kind]
    return deliver(data, spec, arguments.batch_size, option)


def cut_here(data: ray.data.Dataset, spec: Spec, size: int, option: str) -> Iterator[Windows]:
    """Ray reads; the main process cuts."""
    prefetch = 16 if option == "prefetch" else 1
    for table in data.iter_batches(
        batch_size=size, batch_format="pyarrow", prefetch_batches=prefetch
    ):
        yield cut_shuffled(table, spec)


def cut_in_tasks(data: ray.data.Dataset, spec: Spec, size: int, option: str) -> Iterator[Windows]:
    """Ray reads and cuts; the blocks that come back hold compact windows."""
    windows = data.map_batches(
        cut_table,
        fn_kwargs={"spec": spec},
        batch_format="pyarrow",
        batch_size=size,
        zero_copy_batch=True,
    )
    for table in windows.iter_batches(
        batch_size=size,
        batch_format="pyarrow",
        prefetch_batches=4,
        local_shuffle_buffer_size=_SHUFFLE_ROWS if option == "buffer" else None,
    ):
        yield from_arrow(table)


def cut_rows(data: ray.data.Dataset, spec: Spec, size: int, _: str) -> Iterator[Windows]:
    """Ray's plainest loop: a dict a row."""
    rows = []
    for row in data.iter_rows():
        rows.append(row)
        if len(rows) == size:
            yield cut(users_of_rows(rows), spec)
            rows = []
    if rows:
        yield cut(users_of_rows(rows), spec)


def cut_table(table: pa.Table, spec: Spec) -> pa.Table:
    """Windows of an Arrow batch, one row a user, the form that Ray's blocks have."""
    windows = cut_shuffled(table, spec)
    splits = windows.splits.astype(np.int32)
    days = pa.FixedSizeListArray.from_arrays(windows.values.ravel(), windows.values.shape[1])
    return pa.table(
        {
            "user_id": pa.array(windows.user_id, pa.string()),
            "offset": pa.ListArray.from_arrays(splits, windows.offset),
            "values": pa.ListArray.from_arrays(splits, days),
        }
    )


def from_arrow(table: pa.Table) -> Windows:
    """The windows of such a table; the values stay where they are."""
    offset = table["offset"].combine_chunks()
    days = table["values"].combine_chunks().flatten()
    return Windows(
        user_id=table["user_id"].to_numpy(),
        splits=np.concatenate([[0], np.cumsum(offset.value_lengths().to_numpy())]),
        offset=offset.flatten().to_numpy(),
        values=days.flatten().to_numpy().reshape(-1, days.type.list_size),
    )


if __name__ == "__main__":
    sys.exit(main("ray", VARIANTS, batches))
