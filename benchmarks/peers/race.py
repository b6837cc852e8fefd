"""The peers' half of ``benchmarks.loader``: run each in its own environment, check, and report.

    python -m benchmarks.peers.race --uri TABLE --recipe fantasy_sports [--variants PEER:NAME ...]

Nobody is left out silently: a peer that cannot be installed or cannot read is in the result, with
its error. Users' windows are compared with ours, byte by byte, before any figure is used.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.peers.install import CannotInstall, python_of
from benchmarks.peers.window import Spec, digests_of
from lumos.accio.plan import draw_origins, first_origins, hash_users
from lumos.accio.read import read_users, sequence_files
from lumos.accio.window import cut
from lumos.config import Recipe
from lumos.recipes import load
from lumos.settings import REPOSITORY, Settings

# As the peer's own pages use it, and with windows cut from Arrow batches where it has a way to.
VARIANTS = (
    ("deltatorch", "rows"),
    ("lit_deltalake", "rows"),
    ("lit_deltalake", "arrow"),
    ("ray", "rows"),
    ("ray", "arrow"),
)
_START_SECONDS = 300.0
_SAMPLE_SECONDS = 1.0
_USERS_A_CUT = 2048


@dataclass(frozen=True)
class PeerResult:
    """What one peer did with one choice of settings; figures are ``None`` where it failed.

    Attributes:
        name: Stem of its ``run_*.py``.
        variant: Which settings.
        version: Of the package.
        settings: The same settings in words.
        windows: Delivered in all.
        windows_per_s: From the first batch on.
        first_batch_s: From the call to the first batch, imports not counted.
        peak_mib: Largest sum of proportional set sizes of all its processes.
        digests: JSON file, user to digest of the dense window.
        error: Why there are no figures; empty if there are.
    """

    name: str
    variant: str
    version: str = ""
    settings: str = ""
    windows: int = 0
    windows_per_s: int | None = None
    first_batch_s: float | None = None
    peak_mib: int | None = None
    digests: Path | None = None
    error: str = ""


def race(
    uri: str,
    version: int,
    spec: Spec,
    *,
    seconds: float,
    folder: Path,
    home: Path,
    batch_size: int = 1024,
    variants: Iterable[tuple[str, str]] = VARIANTS,
) -> list[PeerResult]:
    """Run every peer, one after another.

    Args:
        uri: A `sequences` table; an absolute path or a URI.
        version: Its Delta version.
        spec: The windows wanted.
        seconds: Time limit after the first batch.
        folder: Where the digests go.
        home: ``LUMOS_HOME``.
        batch_size: Windows a batch.
        variants: Peers and their settings.
    """
    asked = {
        "--uri": uri,
        "--version": version,
        "--history": spec.history_days,
        "--horizon": spec.horizon_days,
        "--first-origin": spec.first_origin,
        "--last-origin": spec.last_origin,
        "--seed": spec.seed,
        "--batch-size": batch_size,
        "--seconds": seconds,
    }
    arguments = [str(part) for pair in asked.items() for part in pair]
    found = []
    for peer, variant in variants:
        try:
            python = python_of(peer, home)
        except CannotInstall as error:
            found.append(PeerResult(peer, variant, error=f"cannot install: {error}"))
            continue
        digests = folder / f"{peer}-{variant}.json"
        extra = ["--digests", str(digests), "--variant", variant]
        found.append(_run(python, peer, variant, [*arguments, *extra], seconds + _START_SECONDS))
    return found


def _run(
    python: Path, peer: str, variant: str, arguments: Sequence[str], timeout: float
) -> PeerResult:
    command = [str(python), "-m", f"benchmarks.peers.run_{peer}", *arguments]
    with tempfile.TemporaryDirectory(prefix="peer-") as name:
        errors = Path(name) / "stderr"
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "TMPDIR": name,  # Ray's session folder, removed with the rest
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                command, env=environment, cwd=name, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
            with _Watch(process.pid) as watch:
                try:
                    out, _ = process.communicate(timeout=timeout)
                except subprocess.TimeoutExpired:
                    out = ""
            said = errors.read_text().strip()
    if process.returncode != 0:
        why = f"exit code {process.returncode}" if process.returncode else f"over {timeout:.0f} s"
        return PeerResult(peer, variant, error=f"{why}: {said[-2000:]}")
    report = json.loads(out.strip().splitlines()[-1])
    return PeerResult(
        name=peer,
        variant=variant,
        version=report["version"],
        settings=report["settings"],
        windows=report["windows"],
        windows_per_s=report["windows_per_s"],
        first_batch_s=report["first_batch_s"],
        peak_mib=watch.peak_bytes >> 20,
        digests=Path(arguments[arguments.index("--digests") + 1]),
    )


class _Watch:
    """Peak memory of a process and all it starts; none of them outlives the block."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._root = psutil.Process(pid)
        self._seen: set[psutil.Process] = {self._root}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        for process in self._seen:
            try:
                process.kill()  # psutil knows a reused pid from the process it saw
            except psutil.NoSuchProcess:
                continue

    def _sample(self) -> None:
        while not self._is_over.wait(_SAMPLE_SECONDS):
            try:
                self._seen |= set(self._root.children(recursive=True))
            except psutil.NoSuchProcess:
                return
            total = 0
            for process in self._seen:
                try:
                    # Shared pages, as Ray's object store has them, are counted once.
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak_bytes = max(self.peak_bytes, total)


def our_digests(
    uri: str, version: int, recipe: Recipe, spec: Spec, users: Iterable[str]
) -> dict[str, str]:
    """Digests of our own windows of the given users."""
    wanted = set(users)
    found: dict[str, str] = {}
    for file in sequence_files(uri, version):
        everyone = read_users(file, recipe)
        rows = np.flatnonzero([user in wanted for user in everyone.user_id])
        for first in range(0, len(rows), _USERS_A_CUT):
            part = everyone.take(rows[first : first + _USERS_A_CUT])
            origins = draw_origins(
                hash_users(part.user_id),
                first_origins(part.registered, spec.first_origin),
                spec.last_origin,
                seed=spec.seed,
                epoch=0,
            )
            windows = cut(part, origins, spec.history_days, spec.horizon_days)
            dense = np.concatenate([windows.history, windows.targets], axis=1)
            found |= digests_of(part.user_id, dense)
    return found


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """What differs between a peer's windows and ours; empty if nothing does."""
    other = [user for user, digest in theirs.items() if ours.get(user) != digest]
    if theirs and not other:
        return ""
    return f"of {len(theirs)} windows {len(other)} differ from ours, such as {other[:3]}"


def check(results: Iterable[PeerResult], uri: str, version: int, recipe: Recipe, spec: Spec) -> str:
    """What differs between any peer's windows and ours, with the peer's name; empty if nothing."""
    theirs = {
        f"{result.name} ({result.variant})": json.loads(result.digests.read_text())
        for result in results
        if result.digests
    }
    ours = our_digests(
        uri, version, recipe, spec, {user for one in theirs.values() for user in one}
    )
    told = [(name, differences(windows, ours)) for name, windows in theirs.items()]
    return "; ".join(f"{name}: {what}" for name, what in told if what)


def main() -> int:
    """Print one JSON line a peer; 1 if any windows differ from ours."""
    made = argparse.ArgumentParser(prog="benchmarks.peers.race")
    made.add_argument("--uri", required=True)
    made.add_argument("--version", type=int, default=1)
    made.add_argument("--recipe", default="fantasy_sports")
    made.add_argument("--first-origin", type=int, required=True, help="day number")
    made.add_argument("--last-origin", type=int, required=True, help="day number")
    made.add_argument("--seconds", type=float, default=20.0)
    made.add_argument("--variants", nargs="+", metavar="PEER:VARIANT")
    arguments = made.parse_args()
    recipe = load(arguments.recipe)
    spec = Spec(
        recipe.history_days, recipe.horizon_days, arguments.first_origin, arguments.last_origin, 7
    )
    variants = [tuple(one.split(":")) for one in arguments.variants or ()] or VARIANTS
    with tempfile.TemporaryDirectory(prefix="digests-") as name:
        started = time.monotonic()
        results = race(
            arguments.uri,
            arguments.version,
            spec,
            seconds=arguments.seconds,
            folder=Path(name),
            home=Settings.from_environment().home,
            variants=variants,
        )
        for result in results:
            print(json.dumps(asdict(result) | {"digests": None}), flush=True)
        wrong = check(results, arguments.uri, arguments.version, recipe, spec)
    print(json.dumps({"different": wrong, "seconds": round(time.monotonic() - started)}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
