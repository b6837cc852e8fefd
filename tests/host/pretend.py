# ruff: noqa: T201 - what it prints is what it is for
"""A stand-in for ``python -m lumos VERB``, to try what a verb may do to its task.

Usage: ``python pretend.py WHAT [FOLDER]``. It is no part of LUMOS: real processes, odd manners.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_SLEEP = "import time; time.sleep(600)"


def _note(folder: str, name: str, pid: int) -> None:
    path = Path(folder) / name
    path.with_suffix(".new").write_text(str(pid))
    path.with_suffix(".new").replace(path)


def _family(folder: str) -> None:
    """A stubborn child, a grandchild in its own session, an orphan: as torchrun and Spark do."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", _SLEEP])
    leader = subprocess.Popen([sys.executable, "-c", _SLEEP], start_new_session=True)
    start = f"subprocess.Popen([sys.executable, '-c', {_SLEEP!r}], stdout=subprocess.DEVNULL)"
    script = f"import subprocess, sys; print({start}.pid)"
    orphan = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True
    )
    _note(folder, "child.pid", child.pid)
    _note(folder, "leader.pid", leader.pid)
    _note(folder, "orphan.pid", int(orphan.stdout))
    _note(folder, "own.pid", os.getpid())
    print("12:00:00 INFO pretend: the family is up", file=sys.stderr, flush=True)
    time.sleep(600)


def _facts() -> dict[str, object]:
    """What a process can see of how it was started."""
    atexit.register(print, "the end of the process", file=sys.stderr)
    return {
        "arguments": sys.argv,
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "first_path": sys.path[0],
        "input": str(Path("/proc/self/fd/0").readlink()),
        "open": len(list(Path("/proc/self/fd").iterdir())),
        "ignored": [n for n in (15, 17) if signal.getsignal(n) != signal.SIG_DFL],
        "modules": sorted({"torch", "mlflow", "lumos"} & set(sys.modules)),
        "title": Path("/proc/self/cmdline").read_text().rstrip("\0").split("\0"),
    }


def main() -> int:
    """Do what is asked."""
    what, *rest = sys.argv[1:]
    if what == "family":
        _family(rest[0])
    if what == "exit":
        print("12:00:00 ERROR lumos: the sentence for people", file=sys.stderr)
        return int(rest[0])
    if what == "kill-self":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "chatter":
        print("not JSON at all")
        return 0
    if what == "environment":
        print(json.dumps(dict(os.environ)))
        return 0
    if what == "process":
        print(json.dumps(_facts()))
        return 0
    if what == "live":
        print("12:00:00 WARNING lumos: first", file=sys.stderr, flush=True)
        while not (Path(rest[0]) / "seen").exists():
            time.sleep(0.01)
    print("a stray line")
    table = {"table": "activity", "version": 3, "rows": 5}
    print(json.dumps({"verb": "pretend", "tables": [table]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
