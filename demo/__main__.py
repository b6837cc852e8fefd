"""``python -m demo run|up|down``: what ``make demo``, ``make up`` and ``make down`` call."""

import argparse
import datetime as dt
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from demo import summary
from demo.airflow import LocalAirflow
from demo.client import AirflowError
from demo.picture import PAGE
from demo.processes import PidFile, PortTaken, last_lines
from demo.story import StoryFailed, tell
from demo.watch import Watch
from lumos.dates import parse_date
from lumos.recipes import load
from lumos.settings import REPOSITORY, Settings

_DONE, _FAILED, _BAD_INPUT = 0, 1, 2
_DATE = "2017-12-10"
_UI_PORT = 8080
_UP_SECONDS = 360
# A log has no width of its own: 80 would break the tables.
console = Console(width=None if sys.stdout.isatty() else 120)


def main() -> int:
    """Parse the command line and run one of the commands."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("command", choices=("run", "up", "down", "serve"))
    parser.add_argument("--date", default=_DATE, help=f"business date (default: {_DATE})")
    parser.add_argument("--recipe", help="default: $LUMOS_RECIPE, or complete_journey")
    parser.add_argument("--port", type=int, help="of the UI (default: 8080, or a free one)")
    arguments = parser.parse_args()
    if arguments.recipe:
        os.environ["LUMOS_RECIPE"] = arguments.recipe
    # So that `kill` cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    commands = {"run": run, "up": up, "down": down, "serve": serve}
    try:
        return commands[arguments.command](arguments)
    except (PortTaken, ValueError) as error:
        console.print(str(error), style="red", markup=False)
        return _BAD_INPUT
    except (AirflowError, StoryFailed) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return _FAILED
    except KeyboardInterrupt:
        console.print("stopped; nothing is left running")
        return 130


def run(arguments: argparse.Namespace) -> int:
    """The whole story, from raw data to published scores."""
    today = _today()
    date = parse_date(arguments.date, today=today)
    settings = Settings.from_environment()
    load(settings.recipe)
    airflow = _airflow(settings, arguments)
    console.print(f"Airflow at {airflow.url}  login admin / {airflow.password}", soft_wrap=True)
    console.print(f"Health page at {airflow.url}{PAGE}", soft_wrap=True)
    with Watch(console) as watch:
        try:
            told = tell(airflow, date=date, recipe=settings.recipe, watch=watch)
        finally:
            airflow.stop()
    said = summary.write(told, settings.home / "demo.json")
    summary.show(told, said, airflow, console)
    return _DONE


def up(arguments: argparse.Namespace) -> int:
    """Start Airflow in a process of its own, wait until it answers, say how to use it."""
    settings = Settings.from_environment()
    home = settings.home
    pid_file, log = _pid_file(home), home / "airflow" / "run" / "supervisor.log"
    if running := pid_file.read():
        msg = f"an Airflow runs on {home} already, at {running['url']}: `make down` stops it"
        raise AirflowError(msg)
    airflow = _airflow(settings, arguments)  # says so here if the port is taken
    log.parent.mkdir(parents=True, exist_ok=True)
    port = [] if arguments.port is None else ["--port", str(arguments.port)]
    with log.open("wb") as file:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "demo", "serve", *port],
            cwd=REPOSITORY,
            env={**os.environ, "LUMOS_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    until = time.monotonic() + _UP_SECONDS
    with console.status("starting Airflow"):
        while not (facts := pid_file.read()) or not facts.get("ready"):
            if supervisor.poll() is not None or time.monotonic() > until:
                msg = f"Airflow did not start; the end of {log}:\n{last_lines(log, 15)}"
                raise AirflowError(msg)
            time.sleep(0.3)
    console.print(
        f"Airflow is up at [bold]{facts['url']}[/bold]  login admin / {airflow.password}\n"
        f"Health page at [bold]{facts['url']}{PAGE}[/bold]\n\n"
        "Try next:\n"
        "  in the UI: daily_aggregation > Trigger   a business date, 365 days the first time\n"
        "  make demo                                the whole story (after make down)\n"
        "  make down                                stop it\n"
        f"{summary.verbs_by_hand(airflow)}",
        highlight=False,
        soft_wrap=True,
    )
    return _DONE


def serve(arguments: argparse.Namespace) -> int:
    """Airflow in the foreground, until a signal; what ``up`` starts in the background."""
    home = Settings.from_environment().home
    with LocalAirflow(home, port=arguments.port, preferred_port=_UI_PORT) as airflow:
        _pid_file(home).write(url=airflow.url, ready=True)
        while True:
            airflow.check_alive()
            time.sleep(2)


def down(arguments: argparse.Namespace) -> int:
    """Stop what ``up`` started."""
    pid_file = _pid_file(Settings.from_environment().home)
    facts = pid_file.read()
    if facts is None:
        console.print("no Airflow is running on this home")
        return _DONE
    os.kill(int(str(facts["pid"])), signal.SIGTERM)
    with console.status("stopping Airflow"):
        while pid_file.read():
            time.sleep(0.2)
    console.print("stopped")
    return _DONE


def _airflow(settings: Settings, arguments: argparse.Namespace) -> LocalAirflow:
    """On a home that can be written to; says which models it does not see.

    Raises:
        ValueError: The home cannot be written to.
    """
    if trouble := settings.trouble_writing():
        raise ValueError(trouble)
    models = settings.home / "mlflow.db"
    if models.exists() and not os.environ.get("MLFLOW_TRACKING_URI"):
        console.print(
            f"Models in {models} stay there: this Airflow has a registry of its own. To go on with "
            f"them, export MLFLOW_TRACKING_URI=sqlite:///{models}",
            soft_wrap=True,
        )
    return LocalAirflow(settings.home, port=arguments.port)


def _pid_file(home: Path) -> PidFile:
    return PidFile(home / "airflow" / "run" / "supervisor.json")


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


if __name__ == "__main__":
    sys.exit(main())
