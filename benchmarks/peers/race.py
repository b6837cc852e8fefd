"""The peers' half of ``benchmarks.loader``: run each in its own environment, and report.

Nobody is left out silently: a peer that cannot be installed or cannot read is in the result, with
its error. Users' windows are compared with ours, byte by byte, before any figure is used.
"""

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.peers.install import CannotInstall, python_of
from benchmarks.peers.window import Spec, digests_of
from lumos.accio.batch import RaggedBatch
from lumos.settings import REPOSITORY

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


def our_digests(batches: Iterable[RaggedBatch], users: Collection[str]) -> dict[str, str]:
    """Digests of our own windows of the given users, as the loader delivers them."""
    wanted, found = set(users), {}
    for batch in batches:
        rows = [number for number, user in enumerate(batch.user_id) if user in wanted]
        if rows:
            found |= digests_of(batch.user_id[rows], batch.windows.dense[rows])
    return found


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """What differs between a peer's windows and ours; empty if nothing does."""
    other = [user for user, digest in theirs.items() if ours.get(user) != digest]
    if theirs and not other:
        return ""
    return f"of {len(theirs)} windows {len(other)} differ from ours, such as {other[:3]}"


def delivered(results: Iterable[PeerResult]) -> dict[str, dict[str, str]]:
    """The digests that each peer wrote, by peer and variant."""
    return {
        f"{result.name} ({result.variant})": json.loads(result.digests.read_text())
        for result in results
        if result.digests
    }
