"""What `make wheel` builds is all that runs on a rented machine: code, SQL and templates."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lumos.settings import REPOSITORY

SOURCES = ("lumos", "include", "pyproject.toml", "requirements.in", "README.md", "Makefile")
DATA = (".sql", ".toml", ".properties", ".j2")
WHERE = """
import json, lumos
from lumos.settings import Settings, shipped_sql
print(json.dumps([lumos.__file__, str(Settings.from_environment({}).sql_root), str(shipped_sql())]))
"""


def copied(folder: Path) -> Path:
    """What the wheel is made from, somewhere else."""
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, folder / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


def build(folder: Path) -> Path:
    """The wheel that a copy's Makefile makes, without the network, in this environment."""
    (folder / "requirements.txt").touch()
    venv = Path(sys.prefix)
    is_ready = f"--old-file={venv / '.ready'}"
    subprocess.run(
        ["make", "wheel", f"VENV={venv}", is_ready], cwd=folder, check=True, capture_output=True
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(copied(tmp_path_factory.mktemp("built") / "repository"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(unpacked: Path, *command: str) -> str:
    """Run from the unpacked wheel as a rented machine does, far from the repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LUMOS_")}
    return subprocess.run(
        [sys.executable, *command],
        cwd=unpacked.parent,
        env={**kept, "PYTHONPATH": str(unpacked)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def data_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.suffix in DATA)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_unpacked_wheel_runs_and_finds_its_own_sql(unpacked: Path) -> None:
    assert "usage: lumos aggregate" in python(unpacked, "-m", "lumos", "aggregate", "--help")
    code, root, shipped = json.loads(python(unpacked, "-c", WHERE))
    assert Path(code).is_relative_to(unpacked)
    assert root == shipped == str(unpacked / "lumos" / "sql")
    assert data_of(Path(root)) == data_of(REPOSITORY / "include" / "sql") != {}


def test_the_repository_s_sql_is_read_where_people_edit_it() -> None:
    outside = {name: value for name, value in os.environ.items() if name != "LUMOS_SQL"}
    found = subprocess.run(
        [sys.executable, "-c", WHERE], env=outside, check=True, capture_output=True, text=True
    ).stdout
    assert json.loads(found)[1] == str(REPOSITORY / "include" / "sql")


def test_the_wheel_is_the_package_with_all_its_files_and_nothing_beside_it(unpacked: Path) -> None:
    def files(folder: Path) -> set[str]:
        found = {str(path.relative_to(folder)) for path in folder.rglob("*.py")}
        return found | set(data_of(folder))

    sql = {f"sql/{name}" for name in data_of(REPOSITORY / "include" / "sql")}
    assert files(unpacked / "lumos") == files(REPOSITORY / "lumos") | sql
    others = {path.name.split("-")[0] for path in unpacked.iterdir()}
    assert others == {"lumos"}  # the package, and lumos-VERSION.dist-info


def test_a_cluster_that_installs_the_wheel_keeps_its_own_libraries(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("lumos-*.dist-info/METADATA")
    needed = [
        line for line in metadata.read_text().splitlines() if line.startswith("Requires-Dist")
    ]
    assert needed
    assert all(line.endswith('; extra == "all"') for line in needed)


def test_the_same_content_is_the_same_wheel_whenever_and_wherever_it_is_built(
    wheel: Path, tmp_path: Path
) -> None:
    elsewhere = copied(tmp_path / "elsewhere")
    for path in elsewhere.rglob("*.*"):
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    gone = elsewhere / "build" / "lib" / "lumos" / "gone.py"
    gone.parent.mkdir(parents=True)
    gone.write_text("left by an earlier build\n")
    assert digest(build(elsewhere)) == digest(wheel)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
