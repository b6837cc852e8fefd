"""Score files on their way: written unseen, swept when nobody needs them, committed in one go.

A publisher first claims its date: one small commit to the log of `scores`. Delta lets no two
commits change one claim at the same time, and the commit of the files is bound to it. So of two
publishers of a date the later one goes on and the earlier one is refused, whatever either has
written; and files of a claim that was overtaken are nobody's, and may be swept.
"""

import json
import logging
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction
from pyarrow import fs

from lumos.accio.storage import filesystem_of
from lumos.delta import DataFile, add_columns, data_files, has_dictionary, open_table
from lumos.serve.manifest import Manifest, TamperedScores, files_of, read_manifests
from lumos.tables import table_uri, tables
from lumos.verbs import Request

log = logging.getLogger(__name__)

_ATTEMPTS = 10
_ROW_GROUP_USERS = 2**16


class Overtaken(RuntimeError):
    """Another publisher claimed the date later; it goes on, and a retry of this one settles it."""


@dataclass
class Staging:
    """A claim on a date, and the files written under it.

    Attributes:
        request: Whose date is claimed.
        number: Of the claim; grows by one with each.
        files: Written so far.
        is_in_doubt: Whether they are committed, or may be: they must stay.
    """

    request: Request
    number: int
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    files: list[DataFile] = field(default_factory=list)
    is_in_doubt: bool = False

    @property
    def uri(self) -> str:
        """Where `scores` lies."""
        return table_uri(self.request.settings, self.request.recipe, "scores")

    @property
    def folder(self) -> str:
        """Of the date, within the table."""
        return f"as_of={self.request.date}"

    def write(self, shard: int, parts: Iterable[pa.Table]) -> None:
        """Write a file that no reader sees: the table's log does not name it."""
        system, root = _place(self.uri)
        path = f"{self.folder}/part-{shard:05d}-{self.run}.zstd.parquet"
        schema = _file_schema(self.request)
        system.create_dir(f"{root}/{self.folder}")
        num_rows = 0
        with pq.ParquetWriter(
            f"{root}/{path}",
            schema,
            filesystem=system,
            compression="zstd",
            use_dictionary=[field.name for field in schema if has_dictionary(field)],
        ) as writer:
            for rows in parts:
                num_rows += rows.num_rows
                writer.write_table(rows.select(schema.names), row_group_size=_ROW_GROUP_USERS)
        size = system.get_file_info(f"{root}/{path}").size
        self.files.append(DataFile(path, size, num_rows, {"as_of": self.request.date}))

    def commit(self) -> int:
        """Put the files in the place of the date's old ones; returns the Delta version.

        Raises:
            Overtaken: The claim is another publisher's by now; nothing was committed.
        """
        actions: list[AddAction | RemoveAction] = [
            AddAction(
                file.path,
                file.size,
                {"as_of": self.request.date.isoformat()},
                int(time.time() * 1000),
                True,
                json.dumps({"numRecords": file.num_rows}),
            )
            for file in self.files
            if file.num_rows
        ]
        for attempt in range(_ATTEMPTS):
            table = DeltaTable(self.uri)
            if table.transaction_version(_claim(self.request)) != self.number:
                msg = (
                    f"another publisher took over {self.request.date} meanwhile; this one has "
                    "published nothing. Look at what it published before running this again"
                )
                raise Overtaken(msg)
            self.is_in_doubt = True
            try:
                table.create_write_transaction(
                    actions,
                    "overwrite",
                    table.schema(),
                    partition_by=list(tables(self.request.recipe)["scores"].partition),
                    partition_filters=[("as_of", "=", self.request.date.isoformat())],
                    commit_properties=_once(self.request, self.number),
                )
            except CommitFailedError:
                self.is_in_doubt = False
                _pause(attempt)
            else:
                return table.version() + 1
        raise _busy(self.uri)

    def discard(self) -> None:
        """Remove what was written and not committed, unless a later claim has swept it."""
        system, root = _place(self.uri)
        for info in system.get_file_info([f"{root}/{file.path}" for file in self.files]):
            if info.is_file:
                system.delete_file(info.path)


@contextmanager
def claimed(request: Request) -> Iterator[Staging]:
    """Claim the request's date, and sweep what publishers that died have left of it.

    Files written and not committed are removed at the end, whatever happens.
    """
    # Listed before the claim: whatever lies here then is of a claim that this one overtakes.
    lying = _lying(request)
    staging, version = _take(request)
    _sweep(staging, lying, version)
    try:
        yield staging
    finally:
        if not staging.is_in_doubt:
            staging.discard()


def _claim(request: Request) -> str:
    return f"lumos.publish/{request.date}"


def _once(request: Request, number: int) -> CommitProperties:
    claim = Transaction(_claim(request), number)
    # Never rebased: the version of the commit is then known, and it has seen all before it.
    return CommitProperties(app_transactions=[claim], max_commit_retries=0)


def _take(request: Request) -> tuple[Staging, int]:
    """Commit a claim; returns it, and the version of its commit."""
    uri = table_uri(request.settings, request.recipe, "scores")
    declared = tables(request.recipe)["scores"]
    schema = declared.arrow_schema(request.recipe)
    nullable = pa.schema([each.with_nullable(True) for each in schema])
    for attempt in range(_ATTEMPTS):
        if open_table(uri) is None:
            DeltaTable.create(uri, nullable, mode="ignore", partition_by=list(declared.partition))
        try:
            add_columns(uri, schema)
            table = DeltaTable(uri)
            number = (table.transaction_version(_claim(request)) or 0) + 1
            table.create_write_transaction(
                [],
                "append",
                table.schema(),
                partition_by=list(declared.partition),
                commit_properties=_once(request, number),
            )
        except CommitFailedError:
            _pause(attempt)
        else:
            return Staging(request, number), table.version() + 1
    raise _busy(uri)


def _busy(uri: str) -> RuntimeError:
    msg = f"{uri} had commits of others all the time; run this again when fewer write to it"
    return RuntimeError(msg)


def _lying(request: Request) -> list[str]:
    """Names of all files in the date's folder."""
    system, root = _place(table_uri(request.settings, request.recipe, "scores"))
    folder = fs.FileSelector(f"{root}/as_of={request.date}", allow_not_found=True)
    return [info.base_name for info in system.get_file_info(folder) if info.is_file]


def _sweep(staging: Staging, lying: Iterable[str], version: int) -> None:
    """Remove those files that no publication has, nor the table at the claim."""
    request, (system, root) = staging.request, _place(staging.uri)
    kept = {file.path for file in data_files(DeltaTable(staging.uri, version=version))}
    for manifest in read_manifests(request.settings, request.recipe):
        if manifest.as_of == request.date:
            kept |= {file.path for file in _files_left(staging.uri, manifest)}
    for name in lying:
        if f"{staging.folder}/{name}" not in kept:
            log.info("removed %s, which no publication has", name)
            system.delete_file(f"{root}/{staging.folder}/{name}")


def _files_left(uri: str, manifest: Manifest) -> list[DataFile]:
    """The files of a publication; none if its version can no longer be read."""
    try:
        return files_of(uri, manifest)
    except TamperedScores as gone:
        log.warning("%s", gone)
        return []


def _file_schema(request: Request) -> pa.Schema:
    declared = tables(request.recipe)["scores"]
    fields = declared.arrow_schema(request.recipe)
    return pa.schema([each for each in fields if each.name not in declared.partition])


def _place(uri: str) -> tuple[fs.FileSystem, str]:
    system, prefix = filesystem_of(uri)
    return system, uri.removeprefix(prefix)


def _pause(attempt: int) -> None:
    # Jitter, so that two writers that met once do not meet again.
    time.sleep(random.uniform(0.02, 0.1) * 2 ** min(attempt, 5))
