"""Folders that are whole or not there at all, and that notice when they were changed.

Every file is written out to the disk before its folder takes its name, and the folder's
JSON holds the SHA-256 of the others: a copy cut short, a disk gone bad and an edit by hand
are all found before anything is computed from them.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FILES = "files"
_FORMAT = "format"


class Damaged(Exception):
    """A folder is not as it was saved; the message says what is wrong, not what to do."""


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A draft folder that takes its final name only when the block ends well."""
    draft = folder.with_name(f".draft-{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
    draft.mkdir(parents=True)
    try:
        yield draft
        for path in (*draft.iterdir(), draft):
            _to_disk(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    _to_disk(folder.parent)


def _to_disk(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name; those that share memory are written once each."""
    alone = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in alone.items()}, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors by name.

    Raises:
        Damaged: The file is no safetensors file.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        msg = f"{path.name} cannot be read ({error})"
        raise Damaged(msg) from error
    return tensors


def seal(folder: Path, name: str, content: Mapping[str, Any], *, version: int) -> None:
    """Write ``content`` as JSON, with the digests of itself and of all other files beside it."""
    content = {_FORMAT: version, **content}
    digests = {path.name: _digest(path.read_bytes()) for path in sorted(folder.iterdir())}
    digests[name] = _digest(_canonical(content))
    whole = {**content, FILES: digests}
    (folder / name).write_text(json.dumps(whole, indent=2) + "\n")


def unseal(folder: Path, name: str, *, version: int) -> dict[str, Any]:
    """The content that :func:`seal` wrote, once all files are found to be what they were.

    Raises:
        Damaged: A file is missing, cut short, changed, or of another version of LUMOS.
    """
    try:
        content = json.loads((folder / name).read_text())
    except (OSError, ValueError) as error:
        msg = f"{name} cannot be read ({error})"
        raise Damaged(msg) from error
    if not isinstance(content, dict) or content.get(_FORMAT) != version:
        found = content.get(_FORMAT) if isinstance(content, dict) else None
        msg = f"{name} is of format {found or 'unknown'}, and this LUMOS reads format {version}"
        raise Damaged(msg)
    digests = dict(content.pop(FILES, {}))
    if digests.pop(name, None) != _digest(_canonical(content)):
        msg = f"{name} was changed since it was saved"
        raise Damaged(msg)
    for other, digest in digests.items():
        path = folder / other
        if not path.is_file():
            msg = f"{other} is missing"
            raise Damaged(msg)
        if _digest(path.read_bytes()) != digest:
            msg = f"{other} was cut short or changed since it was saved"
            raise Damaged(msg)
    return content


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
