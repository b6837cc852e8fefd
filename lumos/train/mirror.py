"""A second copy of the training states, in storage that outlives the machine (``LUMOS_STATES``).

A rented machine takes its disk with it. So each state is copied before it counts as saved, its
seal last: a copy that was cut short has no seal, and is no state. A training that starts on an
empty disk fetches the newest whole one.
"""

import logging
import random
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from lumos.accio.storage import StorageFailed, filesystem_of
from lumos.config import Recipe
from lumos.settings import Settings
from lumos.train.distributed import World
from lumos.train.files import Damaged, appearing
from lumos.train.state import KEPT, SEAL, check_state, is_state, states
from lumos.verbs import BadInput

log = logging.getLogger(__name__)

# Each of them is several attempts of the client below, which take six seconds for S3.
ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 0.5
_CHUNK_BYTES = 1 << 24
_T = TypeVar("_T")


class Mirror:
    """The copy of one training's folder of states.

    Args:
        uri: Folder or URI of the copy.
        folder: Of the states on this machine.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self._folder = uri, folder

    @classmethod
    def of(cls, settings: Settings, recipe: Recipe, fingerprint: str) -> "Mirror | None":
        """Of the training of this fingerprint; none without ``LUMOS_STATES``."""
        if settings.states is None:
            return None
        folder = training_folder(settings, recipe, fingerprint)
        return cls(f"{settings.states}/{recipe.name}/{fingerprint}", folder)

    def push(self, path: Path, *, attempts: int = ATTEMPTS) -> None:
        """Copy a state, and drop what is older than it and the one before.

        Args:
            path: Of the state on this machine.
            attempts: To take at each file.

        Raises:
            OSError: The copy is not whole, however often it was tried.
        """
        # What lies there already is half a copy, or another run's.
        self._patiently(partial(self._drop, path.name), attempts)
        for file in sorted(path.iterdir(), key=lambda file: file.name == SEAL):
            self._patiently(partial(self._write, file, f"{path.name}/{file.name}"), attempts)
        try:
            copies = self._copies()
            whole = [name for name in copies if SEAL in copies[name] and name <= path.name]
            for name in copies.keys() - set(whole[-KEPT:]):
                self._drop(name)
        except OSError as error:
            log.warning("old training states stay in %s for now: %s", self.uri, error)

    def fetch(self, world: World) -> None:
        """Let every machine hold the newest whole state of all; to be called by all processes.

        Raises:
            StorageFailed: The storage does not answer. To begin anew would lose the training.
            BadInput: ``LUMOS_STATES`` is no storage.
        """
        chosen = world.first_sentence(self._choose() if world.is_first else "")
        if world.is_first_here and not world.is_first:
            self._hold(chosen)
        world.first_says(True)  # nobody looks for a state before it is there

    def remove(self) -> None:
        """Drop all of it.

        Raises:
            OSError: Some of it is still there.
        """
        for name in self._patiently(self._copies):
            self._patiently(partial(self._drop, name))
        self._patiently(lambda: self._drop(""))

    def _choose(self) -> str:
        """Name of the newest whole state, here and there then; empty if there is none."""
        copies = self._patiently(self._copies)
        here = [path.name for path in states(self._folder)]
        for name in sorted({*copies, *here}, reverse=True):
            if self._is_whole_here(name):
                if SEAL not in copies.get(name, ()):
                    self._offer(name)
                return name
            if name in copies and self._get(name):
                return name
        return ""

    def _hold(self, chosen: str) -> None:
        """Have the chosen state here and no other, whatever this machine trained before."""
        for path in states(self._folder):
            if path.name != chosen:
                shutil.rmtree(path)
        if chosen and not self._is_whole_here(chosen) and not self._get(chosen):
            msg = f"the training state {chosen} of the first machine did not come to {self.uri}"
            raise StorageFailed(msg)

    def _offer(self, name: str) -> None:
        try:
            self.push(self._folder / name)
        except OSError as error:
            log.warning("the training state %s is on this machine's disk only: %s", name, error)

    def _is_whole_here(self, name: str) -> bool:
        path = self._folder / name
        try:
            check_state(path)
        except Damaged as error:
            if path.is_dir():
                log.warning("the training state %s is damaged: %s", path, error)
            return False
        return True

    def _get(self, name: str) -> bool:
        """Fetch a copy, if it is whole."""
        files = self._patiently(self._copies).get(name, ())
        try:
            with appearing(self._folder / name) as draft:
                for file in files:
                    self._patiently(partial(self._read, f"{name}/{file}", draft / file))
                check_state(draft)
        except (Damaged, FileNotFoundError) as error:
            log.warning("the copy %s/%s is not whole and is not used: %s", self.uri, name, error)
            return False
        log.info("fetched the training state %s/%s", self.uri, name)
        return True

    def _storage(self, name: str = "") -> tuple[fs.FileSystem, str]:
        """The file system, and the path in it of what lies in the copy by that name."""
        try:
            system, prefix = filesystem_of(self.uri)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            msg = (
                f"LUMOS_STATES gives {self.uri}, which is no storage ({error}); set it to a "
                "folder or a URI such as s3://bucket/lumos/train"
            )
            raise BadInput(msg) from error
        return system, f"{self.uri.removeprefix(prefix)}/{name}".rstrip("/")

    def _copies(self) -> dict[str, set[str]]:
        """The states there, oldest first, and the files of each; whole or not."""
        system, path = self._storage()
        found: dict[str, set[str]] = {}
        for info in system.get_file_info(
            fs.FileSelector(path, allow_not_found=True, recursive=True)
        ):
            name = info.path.rsplit("/", 2)[-2]
            if info.type == fs.FileType.File and is_state(name):
                found.setdefault(name, set()).add(info.base_name)
        return dict(sorted(found.items()))

    def _write(self, file: Path, name: str) -> None:
        system, path = self._storage(name)
        if system.type_name == "local":
            system.create_dir(path.rsplit("/", 1)[0])
        with file.open("rb") as source, system.open_output_stream(path) as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)

    def _read(self, name: str, file: Path) -> None:
        system, path = self._storage(name)
        with system.open_input_stream(path) as source, file.open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)

    def _drop(self, name: str) -> None:
        """Its seal first, so that what is left of a drop cut short is no state."""
        system, path = self._storage(name)
        for info in system.get_file_info([f"{path}/{SEAL}", path]):
            if info.type == fs.FileType.File:
                system.delete_file(info.path)
            elif info.type == fs.FileType.Directory:
                system.delete_dir(info.path)

    def _patiently(self, do: Callable[[], _T], attempts: int = ATTEMPTS) -> _T:
        """Tried again with growing pauses while the storage fails.

        Raises:
            FileNotFoundError: A file is not there: it will not come.
            StorageFailed: Every attempt failed.
        """
        for attempt in range(attempts):
            try:
                return do()
            except FileNotFoundError:
                raise
            except OSError as error:
                if attempt == attempts - 1:
                    msg = f"{self.uri} failed in {attempts} attempts: {error}"
                    raise StorageFailed(msg) from error
                seconds = _FIRST_PAUSE_SECONDS * 2**attempt * random.uniform(0.5, 1)
                log.warning("%s: %s; trying again in %.1f s", self.uri, error, seconds)
                time.sleep(seconds)
        raise AssertionError("unreachable")


def training_folder(settings: Settings, recipe: Recipe, fingerprint: str) -> Path:
    """Of one training, on this machine's disk."""
    return settings.home / "train" / recipe.name / fingerprint
