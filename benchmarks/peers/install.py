"""Environments for the peers, one each, because they do not install together.

deltatorch needs deltalake before 1.0, lit-deltalake deltalake 1.5, torch 2.14 and Python 3.12.
``requirements/NAME.in`` says what was asked for, ``NAME.txt`` is its lock:
``uv pip compile --no-annotate --no-header --python-version 3.11 NAME.in -o NAME.txt`` (3.12 for
lit_deltalake).
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

_REQUIREMENTS = Path(__file__).parent / "requirements"
_PYTHON = {"lit_deltalake": "3.12"}  # the others take ours
_STAMP = "requirements.sha256"


class CannotInstall(Exception):
    """A peer's environment could not be made; the message is the installer's."""


def python_of(peer: str, home: Path) -> Path:
    """The interpreter of a peer's environment, which is made if missing or out of date.

    Args:
        peer: Stem of its requirements and of its ``run_*.py``.
        home: ``LUMOS_HOME``; environments lie in ``bench/peers`` under it.

    Raises:
        CannotInstall: No such interpreter, or no such packages.
    """
    requirements = _REQUIREMENTS / f"{peer}.txt"
    wanted = _PYTHON.get(peer, sys.executable)
    stamp = hashlib.sha256(f"{wanted}\n{requirements.read_text()}".encode()).hexdigest()
    folder = home / "bench" / "peers" / peer
    python = folder / "bin" / "python"
    if not ((folder / _STAMP).is_file() and (folder / _STAMP).read_text() == stamp):
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _uv("venv", "--no-project", "--python", wanted, str(folder))
        _uv("pip", "install", "--compile-bytecode", "--python", str(python), "-r", requirements)
        (folder / _STAMP).write_text(stamp)
    return python


def _uv(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "uv", *map(str, arguments)]
    # pyenv's shims refuse to start a version that is installed but not chosen.
    environment = {"PYENV_VERSION": _PYTHON["lit_deltalake"], **os.environ}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        msg = f"{' '.join(command[2:5])}: {done.stderr.strip()[-2000:]}"
        raise CannotInstall(msg)
