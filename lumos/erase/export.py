"""The verb ``export-user``: all that is kept of users, from the same list of places as `erase`."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs
from pyarrow.parquet import ParquetFile

from lumos.accio.storage import filesystem_of, patiently
from lumos.delta import NotPlain, data_files, open_table, plain
from lumos.erase.asked import asked_users
from lumos.erase.pages import exports_folder, naming
from lumos.erase.places import Place, Users, places
from lumos.progress import progress
from lumos.verbs import BadInput, Report, Request


def export_user(request: Request) -> Report:
    """Write the users' rows of the newest version of each table, as ``TABLE.jsonl`` in a folder.

    Where only a sentence of a row names a user (the example of a check), the row is given whole.
    Pages that name them are copied to ``pages``. The folder appears when it is complete, and only
    its owner can read it. What the platform landed itself, its raw tables, is not in it.

    Raises:
        BadInput: No user is named or known, the folder exists, or a table has deletion vectors.
    """
    users = asked_users(request)
    target = Path(request.options["to"] or exports_folder(request.settings, request.recipe))
    if target.exists():
        msg = f"{target} exists: name a new folder with --to, or move it away"
        raise BadInput(msg)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        rows = _write_tables(request, users, draft)
        pages = list(naming(request.settings, request.recipe, users))
        for page in pages:
            copy = draft / "pages" / page.relative_to(request.settings.home)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(page, copy)
        if not rows and not pages:
            msg = (
                f"nothing is kept of {len(users)} users in recipe {request.recipe.name}: ids are "
                "those of `users`, letter by letter"
            )
            raise BadInput(msg)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return request.report(
        details={
            "folder": str(target),
            "num_users": len(users),
            "rows": rows,
            "pages": len(pages),
        }
    )


def _write_tables(request: Request, users: Users, folder: Path) -> dict[str, int]:
    all_places, found = places(request.recipe), {}
    with progress("looking for the users", len(all_places)) as advance:
        for place in all_places:
            path = folder / f"{place.table}.jsonl"
            num_rows = 0
            with path.open("w", encoding="utf-8") as file:
                for row in _rows(place.uri(request.settings, request.recipe), place, users):
                    file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                    num_rows += 1
            if num_rows:
                found[place.table] = num_rows
            else:
                path.unlink()
            advance(note=place.table)
    return found


def _rows(uri: str, place: Place, users: Users) -> Iterator[dict[str, Any]]:
    """Of the newest version, a row group at a time, with the columns of partitions."""
    table = open_table(uri)
    if table is None:
        return
    try:
        files = data_files(table)
    except NotPlain as error:
        msg = f"{error}: have Spark write its files again (REORG TABLE ... APPLY (PURGE))"
        raise BadInput(msg) from error
    system, prefix = filesystem_of(uri)
    for file in sorted(files, key=lambda each: each.path):
        if place.skipped is not None and place.skipped in file.path:
            continue
        path = f"{uri.removeprefix(prefix)}/{file.path}"
        for rows in _row_groups(system, path):
            for row in rows.filter(place.is_theirs(rows, users)).to_pylist():
                yield {**file.partition, **row}


def _row_groups(system: fs.FileSystem, path: str) -> Iterator[pa.Table]:
    with patiently(lambda: ParquetFile(path, filesystem=system), path) as parquet:
        for number in range(parquet.num_row_groups):
            yield plain(parquet.read_row_group(number, use_threads=False))
