"""Back up a platform beside a verb that publishes all the while, and read every copy to the end.

Of each copy, restored into a folder of its own: every version that the copied ledger pins can be
opened and has all its files; every live manifest gives the rows that it vouches for; the champion's
checkpoint is there.

    python -m benchmarks.backup [--backups 10]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from deltalake import DeltaTable
from rich.console import Console
from rich.table import Table

from lumos import ledger
from lumos.delta import data_files, open_table
from lumos.serve.manifest import LIVE, read_manifests, rows_of
from lumos.settings import REPOSITORY
from lumos.tables import table_uri, tables
from lumos.train.tracking import checkpoint_of, version_of
from tests.conftest import World, enter
from tests.erase.looking import GYM, TODAY
from tests.erase.served import published_twice

# Publishes again and again, each time with intervals of another level.
_PUBLISHES = """
import itertools, sys
from pathlib import Path
from tests.erase.looking import GYM, TODAY
from tests.conftest import World
from lumos.overrides import override
world = World(Path(sys.argv[1]))
for number in itertools.count():
    recipe = override(GYM, {"calibration.interval_level": 0.5 + number % 40 / 100})
    world.run("publish", date=TODAY, recipe=recipe, force=True)
    print(number, flush=True)
"""


def back_up(world: World, target: Path) -> World:
    """Run docs/backup.sh, and give the copy as a platform."""
    environment = {**world.environment, "PYTHON": sys.executable}
    subprocess.run([REPOSITORY / "docs" / "backup.sh", target], env=environment, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    return World(target, world.recipe_name)


def unreadable(copy: World, names: Sequence[str]) -> list[str]:
    """What a reader of the copy would miss, of these tables, the publications and the champion."""
    settings, found = copy.settings, []
    for name in names:
        for entry in ledger.entries(settings, GYM, name):
            uri = table_uri(settings, GYM, name)
            try:
                files = data_files(DeltaTable(uri, version=entry.version))
            except Exception as error:  # whatever it is, a reader has it too
                found.append(f"{name} version {entry.version}: {error}")
                continue
            missing = [each.path for each in files if not (Path(uri) / each.path).is_file()]
            found += [f"{name} version {entry.version}: {path}" for path in missing]
    for manifest in read_manifests(settings, GYM):
        if manifest.state == LIVE:
            try:
                rows_of(settings, GYM, manifest)
            except Exception as error:
                found.append(f"publication of {manifest.as_of}: {error}")
    champion = version_of(settings, GYM, "champion")
    if champion is None or not checkpoint_of(settings, GYM, champion).exists():
        found.append(f"champion {champion}")
    return found


def campaign(backups: int, folder: Path) -> dict[str, int]:
    """So many backups beside one process that publishes."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        enter(World(folder / "home"), monkeypatch)
        world = published_twice(folder / "home")
        log = folder / "published"
        with log.open("w") as output:
            writer = subprocess.Popen(
                [sys.executable, "-c", _PUBLISHES, str(world.home)],
                cwd=REPOSITORY,
                env={**os.environ, **world.environment},
                stdout=output,
                stderr=subprocess.DEVNULL,
            )
        uris = {name: table_uri(world.settings, GYM, name) for name in tables(GYM)}
        # The ledger of this platform names tables that nothing here reads, and that were not made.
        names = [name for name, uri in uris.items() if open_table(uri) is not None]
        scores = uris["scores"]
        first = DeltaTable(scores).version()
        found: list[str] = []
        try:
            while DeltaTable(scores).version() == first and writer.poll() is None:
                pass  # until it is at work
            for number in range(backups):
                found += unreadable(back_up(world, folder / f"backup-{number}"), names)
            if writer.poll() is not None:
                msg = f"the process that publishes ended with {writer.returncode}"
                raise RuntimeError(msg)
        finally:
            writer.kill()
            writer.wait()
        for text in found:
            print(text, file=sys.stderr)
        commits = DeltaTable(scores).version() - first
        assert ledger.find(world.settings, GYM, "scores", TODAY) is not None
        return {"backups": backups, "unreadable": len(found), "commits_meanwhile": commits}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the campaign and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backups", type=int, default=10)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(given.backups, Path(folder))
    table = Table("figure", "value", title="Backups beside a verb that publishes")
    for name, value in found.items():
        table.add_row(name, str(value))
    Console().print(table)
    print(json.dumps(found))
    if found["unreadable"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
