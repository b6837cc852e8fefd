"""Game day: break a running local system in fifteen ways, and see whether its people would know.

Every fault starts from the same morning, is really made (nothing is mocked but Slack, PagerDuty and
the mail server, which write down what they hear), and is given some minutes to be noticed by the
alert that should tell of it. Then what that alert's section of docs/runbook.md says is done, word
by word, and every row of every table is compared with the same morning undisturbed.
``python -m benchmarks.gameday [--only "bad data" ...]``.

The last line of stdout is JSON: ``faults``; ``noticed`` by what should tell of it; ``told``, those
of which somebody was told (the others are seen by whoever asks Airflow for its health and its jobs,
as docs/alerts.md says); ``mended`` by the runbook; ``lost_or_doubled`` rows, keys and publications
of all faults; ``median_alert_s`` from a fault to its alert; ``details`` of each. The bar: all
noticed, all mended, nothing lost or doubled.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks import _gameday_data, _gameday_parts
from benchmarks._gameday_play import HEADER, Fault, Outcome, played
from benchmarks._gameday_system import ENVIRONMENT, running
from benchmarks._gameday_world import States, put
from lumos.aggregate.spark import local_settings, start
from lumos.settings import Settings

FAULTS: tuple[Fault, ...] = (*_gameday_parts.FAULTS, *_gameday_data.FAULTS)


def main() -> None:
    """Print each fault as it ends, the table, and the line of JSON."""
    names = [fault.name for fault in FAULTS]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--keep", type=Path, help="a folder whose undisturbed states are reused")
    arguments = parser.parse_args()
    chosen = [fault for fault in FAULTS if fault.name in arguments.only]
    with tempfile.TemporaryDirectory(prefix="lumos-gameday-") as scratch:
        outcomes = game_day(arguments.keep or Path(scratch), chosen)
    print(HEADER)
    for outcome in outcomes:
        print(outcome.line())
    print(json.dumps(summary(outcomes)))


def game_day(scratch: Path, faults: list[Fault]) -> list[Outcome]:
    """All faults, one after the other, on one Airflow."""
    states, started = States(scratch.absolute()), time.monotonic()
    # Spark's session is borrowed by every verb that makes a state, and is gone before it begins.
    session = start("gameday", local_settings(Settings.from_environment().home / "spark", cores=2))
    for name in dict.fromkeys(state for fault in faults for state in (fault.begins, fault.ends)):
        states.rows(name)
        print(f"{time.monotonic() - started:5.0f} s: undisturbed, {name}", flush=True)
    session.stop()
    outcomes = []
    put(states.make(faults[0].begins).home, states.world.home)
    with running(states, ENVIRONMENT) as system:
        print(f"{time.monotonic() - started:5.0f} s: Airflow is up", flush=True)
        for fault in faults:
            outcomes.append(played(fault, system))
            print(f"{time.monotonic() - started:5.0f} s: {outcomes[-1].line()}", flush=True)
    return outcomes


def summary(outcomes: list[Outcome]) -> dict[str, object]:
    """The figures; see the top of the file."""
    seconds = [each.seconds for each in outcomes if each.seconds is not None]
    return {
        "faults": len(outcomes),
        "noticed": sum(each.is_noticed for each in outcomes),
        "told": sum(each.is_noticed and each.times_told > 0 for each in outcomes),
        "mended": sum(each.is_mended for each in outcomes),
        "lost_or_doubled": sum(each.wrong or 0 for each in outcomes),
        "not_compared": sum(each.wrong is None for each in outcomes),
        "median_alert_s": round(median(seconds), 1) if seconds else None,
        "details": [asdict(each) for each in outcomes],
    }


if __name__ == "__main__":
    main()
