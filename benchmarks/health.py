"""``python -m benchmarks.health``: how fast the health page answers after 10,000 DAG runs.

A database as Airflow's own migrations make it, filled with 10,000 runs of this repository's DAGs
and their tasks; a lake with a year of the ledger, written day by day as it grows in life; and
Airflow's real API server in a process of its own, asked over HTTP by who has logged in.
"""

import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

DAG_RUNS, REQUESTS, YEAR = 10_000, 200, 365
# One a second: two times that the lake's snapshot grows old.
_LIVED_SECONDS = 65
_LIMIT_MS = 300
_DAILY = ("daily_aggregation", "data_quality", "batch_scoring", "ab_metrics", "embedding")
_START_SECONDS = 120


def main() -> dict[str, Any]:
    """Fill, start, ask, print; returns the last line."""
    false_alarms = cried_wolf()
    with tempfile.TemporaryDirectory(prefix="lumos-health-") as folder:
        home = Path(folder)
        os.environ |= {
            "LUMOS_HOME": str(home),
            "LUMOS_LAKE": str(home / "lake"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}",
        }
        from demo.airflow import LocalAirflow

        airflow = LocalAirflow(home, environment=os.environ)
        os.environ |= {
            k: v for k, v in airflow.environment.items() if k.startswith(("AIRFLOW", "LUMOS"))
        }
        sys.path.insert(0, "plugins")
        fill()
        found = ask(airflow)
    found["false_alarms"] = false_alarms
    found["health_ok"] = found["p95_ms"] < _LIMIT_MS and found["is_right"]
    show(found)
    print(json.dumps(found))
    return found


def cried_wolf() -> int:
    """Critical findings of the monitors on sixty ordinary days, in a process and lake of its own.

    Raises:
        subprocess.CalledProcessError: It did not end well.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.false_alarms", "--faults-every", "0"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(json.loads(done.stdout.splitlines()[-1])["false_alarms"])


def fill() -> None:
    """10,000 runs and a year of the lake, up to yesterday."""
    from airflow.utils.session import create_session

    from benchmarks import _health_world as made
    from lumos.recipes import load
    from lumos.settings import Settings
    from lumos.stored import store

    made.make_database()
    yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
    settings = Settings.from_environment()
    recipe = load(settings.recipe)
    store(settings, settings.recipe, recipe)
    days = [yesterday - dt.timedelta(days=back) for back in range(YEAR, -1, -1)]
    for day in days:
        made.write_days(settings, recipe, [day])
    made.write_look(settings, recipe, yesterday, 0.4)
    made.write_publication(settings, recipe, yesterday)
    runs = [yesterday - dt.timedelta(days=back) for back in range(DAG_RUNS // len(_DAILY))]
    with create_session() as session:
        for dag_id in _DAILY:
            made.add_runs(session, dag_id, runs)


def ask(airflow: Any) -> dict[str, Any]:  # noqa: ANN401 - demo's LocalAirflow
    """Start the API server alone, and measure."""
    airflow._write_passwords()
    with (airflow.home / "api-server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "airflow", "api-server"],
            env=airflow.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            client = _client(airflow)
            return _measure(client)
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


def _client(airflow: Any) -> httpx.Client:  # noqa: ANN401
    until = time.monotonic() + _START_SECONDS
    client = httpx.Client(base_url=airflow.url, timeout=60)
    while True:
        try:
            login = {"username": "admin", "password": airflow.password}
            token = client.post("/auth/token", json=login).raise_for_status().json()
        except httpx.HTTPError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
        else:
            client.headers["Authorization"] = f"Bearer {token['access_token']}"
            return client


def _measure(client: httpx.Client) -> dict[str, Any]:
    first = _timed(client)
    # The registry is asked in the background; until it has answered the status is unknown.
    until = time.monotonic() + 60
    while _json(client)["champion"]["read"] is None and time.monotonic() < until:
        time.sleep(0.5)
    warm = [_timed(client) for _ in range(REQUESTS)]
    # One a second, as an eager team's browsers ask: caches expire in between.
    lived = []
    for _ in range(_LIVED_SECONDS):
        lived.append(_timed(client))
        time.sleep(max(0.0, 1 - lived[-1] / 1000))
    cold = [_timed(client, "no-cache") for _ in range(30)]
    said, computed = _json(client), _directly()
    return {
        "dag_runs": DAG_RUNS,
        "p95_ms": round(_p95([*warm, *lived]), 1),
        "p95_lived_ms": round(_p95(lived), 1),
        "p95_warm_ms": round(_p95(warm), 1),
        "p95_uncached_ms": round(_p95(cold), 1),
        "max_ms": round(max(*warm, *lived, *cold), 1),
        "first_ms": round(first, 1),
        "is_right": _compared(said) == _compared(computed),
    }


def _timed(client: httpx.Client, cache: str = "") -> float:
    began = time.perf_counter()
    headers = {"Cache-Control": cache} if cache else {}
    client.get("/lumos/health", headers=headers).raise_for_status()
    return 1000 * (time.perf_counter() - began)


def _json(client: httpx.Client) -> dict[str, Any]:
    return client.get("/lumos/health", headers={"Accept": "application/json"}).json()


def _directly() -> dict[str, Any]:
    """The same facts in this process, from the same stores, by nobody's cache."""
    from lumos_airflow.health.board import Board

    board = Board()
    until = time.monotonic() + 60
    while board.health(None).champion.read is None and time.monotonic() < until:
        time.sleep(0.5)
    return board.health(None).model_dump(mode="json")


def _compared(health: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Without the moments at which things were read."""
    moments = ("read", "generated")
    if isinstance(health, dict):
        return {k: _compared(v) for k, v in health.items() if k not in moments}
    return [_compared(item) for item in health] if isinstance(health, list) else health


def _p95(milliseconds: list[float]) -> float:
    return quantiles(milliseconds, n=20)[-1]


def show(found: dict[str, Any]) -> None:
    """The table."""
    table = Table(title=f"The health page after {found['dag_runs']:,} DAG runs")
    table.add_column("asked")
    table.add_column("ms", justify="right")
    for name, what in (
        ("first_ms", "first of all, nothing is known"),
        ("p95_warm_ms", f"{REQUESTS} times at once, p95"),
        ("p95_lived_ms", "once a second, caches as shipped, p95"),
        ("p95_ms", f"both together, p95 (limit {_LIMIT_MS})"),
        ("p95_uncached_ms", "everything read anew each time, p95"),
        ("max_ms", "the slowest of all"),
    ):
        table.add_row(what, f"{found[name]:,.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    sys.exit(0 if main()["health_ok"] else 1)
