"""deltatorch: rows one by one from its workers, cut in the collate function of its DataLoader."""

import argparse
import sys
from collections.abc import Iterator
from functools import partial

from deltalake import DeltaTable
from deltatorch import FieldSpec, create_pytorch_dataloader

from benchmarks.peers.runner import CORES, main
from benchmarks.peers.window import COLUMNS, Spec, Windows, cut, users_of_rows

VARIANTS = {
    "rows": f"{CORES} workers, shuffle, a FieldSpec a column, windows cut in collate_fn",
    "worker": "as rows, 1 worker",
    "main": "as rows, no worker",
}


def collate(rows: list[dict], spec: Spec) -> Windows:
    """Windows of a batch of rows, all at once: the cheapest place that deltatorch offers."""
    return cut(users_of_rows(rows), spec)


def batches(arguments: argparse.Namespace, spec: Spec) -> Iterator[Windows]:
    """Batches of compact windows.

    deltatorch shares rows among workers by an integer that numbers them, from 0 to their count.
    `sequences` has none: the partition column stands in, with the end of its own range.
    """
    num_workers = {"rows": CORES, "worker": 1, "main": 0}[arguments.variant]
    loader = create_pytorch_dataloader(
        arguments.uri,
        id_field="bucket",
        fields=[FieldSpec(name) for name in COLUMNS],
        version=arguments.version,
        batch_size=arguments.batch_size,
        num_workers=num_workers,
        shuffle=True,
        collate_fn=partial(collate, spec=spec),
        # A forked worker of a process that has used delta-rs can hang.
        multiprocessing_context="spawn" if num_workers else None,
    )
    table = DeltaTable(arguments.uri, version=arguments.version)
    buckets = table.get_add_actions(flatten=True)["partition.bucket"].to_pylist()
    loader.dataset.end = max(map(int, buckets)) + 1
    return iter(loader)


if __name__ == "__main__":
    sys.exit(main("deltatorch", VARIANTS, batches))
