"""The recipe of each verb as JSON in the lake, for those who must not run it as code.

Airflow's scheduler, triggerer, API server and DAG processor serve many; a recipe is a function of
anyone. So every verb stores what the function returned, without the run's overrides, and they read
that: ``LAKE/_recipes/NAME.json``.
"""

import os
import tempfile
from pathlib import Path

from pyarrow import fs
from pydantic import ValidationError

from lumos.accio.storage import filesystem_of
from lumos.allowed import is_name
from lumos.config import Recipe
from lumos.overrides import shown
from lumos.settings import Settings

FOLDER = "_recipes"


class NotStored(ValueError):
    """No verb has stored the recipe in this lake; the message says so, and what to do."""


def store(settings: Settings, name: str, recipe: Recipe) -> None:
    """Write a recipe, unless the lake has it so already.

    Args:
        settings: Where the lake is.
        name: As the verb was given it.
        recipe: Without overrides.

    Raises:
        OSError: The lake cannot be read or written.
    """
    system, path = _place(settings, name)
    data = recipe.model_dump_json(indent=1).encode()
    if read_bytes(system, path) != data:
        write_bytes(system, path, data)


def read(settings: Settings, name: str) -> Recipe:
    """The recipe as the newest verb found it; nothing of it is imported.

    Raises:
        NotStored: No verb of it has run on this lake, or one of another version of LUMOS.
        ValueError: This cannot be the name of a recipe.
        OSError: The lake cannot be read.
    """
    data = read_bytes(*_place(settings, name))
    if data is None:
        msg = f"no verb has run yet for recipe {name} on this lake; the first one is aggregate"
        raise NotStored(msg)
    try:
        return Recipe.model_validate_json(data)
    except ValidationError as error:
        msg = f"recipe {name} was stored by another version of LUMOS; run any verb of it again"
        raise NotStored(msg) from error


def read_all(settings: Settings) -> list[Recipe]:
    """Every recipe of which a verb has run on this lake.

    Raises:
        NotStored: One was stored by another version of LUMOS.
        OSError: The lake cannot be read.
    """
    system, prefix = filesystem_of(settings.lake)
    folder = fs.FileSelector(f"{settings.lake.removeprefix(prefix)}/{FOLDER}", allow_not_found=True)
    names = sorted(info.base_name for info in system.get_file_info(folder))
    # Drafts of writers that died begin with a dot. A name has no hyphen, but its file has.
    return [
        read(settings, name.removesuffix(".json").replace("-", ":"))
        for name in names
        if name.endswith(".json") and not name.startswith(".")
    ]


def _place(settings: Settings, name: str) -> tuple[fs.FileSystem, str]:
    if not is_name(name):
        msg = f"{shown(name)} is not the name of a recipe"
        raise ValueError(msg)
    system, root = file_system(settings.lake)
    # Names have no hyphen, and not every store takes a colon.
    file = f"{name.replace(':', '-')}.json"
    return system, f"{root}/{FOLDER}/{file}"


def file_system(lake: str) -> tuple[fs.FileSystem, str]:
    """The file system of a lake, and the lake's path in it."""
    system, prefix = filesystem_of(lake)
    return system, lake.removeprefix(prefix)


def read_bytes(system: fs.FileSystem, path: str) -> bytes | None:
    """A small file, or ``None`` where there is none."""
    try:
        with system.open_input_stream(path) as stream:
            data: bytes = stream.read()
            return data
    except FileNotFoundError:
        return None


def write_bytes(system: fs.FileSystem, path: str, data: bytes) -> None:
    """Put a small file in place, whole."""
    if isinstance(system, fs.LocalFileSystem):
        _write_file(Path(path), data)
        return
    with system.open_output_stream(path) as stream:  # an object appears whole
        stream.write(data)


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".draft-", delete=False) as draft:
        try:
            draft.write(data)
            draft.flush()
            os.fsync(draft.fileno())
            # Temporary files are their owner's alone; Airflow's server may be another user.
            Path(draft.name).chmod(0o644)
            Path(draft.name).replace(path)
        except BaseException:
            Path(draft.name).unlink(missing_ok=True)
            raise
