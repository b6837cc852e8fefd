"""Let files that were just written be as old as a simulated clock says.

Ages are what retention goes by: the time of files, and the times that a Delta log gives of commits
and of files that were removed.
"""

import datetime as dt
import json
import os
import time
from pathlib import Path

from deltalake import DeltaTable

_TIMES = (("add", "modificationTime"), ("remove", "deletionTimestamp"), ("commitInfo", "timestamp"))


class Ageing:
    """The simulated age of everything below a folder.

    Args:
        home: The folder.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._written: dict[Path, dt.date] = {}

    def written_on(self, day: dt.date) -> None:
        """Whatever is new was written on this day."""
        moment = dt.datetime.combine(day, dt.time(12), dt.UTC).timestamp()
        new = [path for path in self._home.rglob("*") if path not in self._written]
        checkpoints = [path for path in new if path.name.endswith(".checkpoint.parquet")]
        for path in checkpoints:  # made of times that nobody had set yet
            path.unlink()
            (path.parent / "_last_checkpoint").unlink(missing_ok=True)
        for path in new:
            if path.parent.name == "_delta_log" and path.suffix == ".json":
                _rewrite(path, int(moment * 1000))
            elif path.is_file() and path.parent.name != "_delta_log":
                os.utime(path, (moment, moment))
        for folder in sorted({path.parent.parent for path in checkpoints}):
            DeltaTable(str(folder)).create_checkpoint()
        self._written |= {path: day for path in self._home.rglob("*") if path not in self._written}

    def today_is(self, day: dt.date) -> None:
        """Let the logs be as old as they are on this day; Delta cleans them by the real clock."""
        now = time.time()
        gone = []
        for path, written in self._written.items():
            if path.parent.name != "_delta_log":
                continue
            moment = now - (day - written).days * 86_400
            try:
                os.utime(path, (moment, moment))
            except FileNotFoundError:
                gone.append(path)
        for path in gone:
            del self._written[path]


def _rewrite(path: Path, milliseconds: int) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for action, name in _TIMES:
            if name in line.get(action, {}):
                line[action][name] = milliseconds
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
