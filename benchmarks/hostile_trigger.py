"""A user who may only trigger DAGs types what opens, imports or starts something else.

Hypothesis makes up the ``conf`` of runs, after some that are written down. Each is given to the
real form, and, as if the form had let it pass, to every task's templates, checks and loader, and to
what the triggerer, the API server and the deadlines read of a run. All that happens in one process
with an audit hook, and under ``strace -f -e trace=file,process`` where that is allowed. An escape
is a file outside of the home, the lake and the code, an import of what the conf names, a process, a
connection, a verb asked to read or write elsewhere, or the end of the process.
``python -m benchmarks.hostile_trigger [--confs 3000] [--no-strace]``.

The last line of stdout is JSON: ``confs``; ``escapes`` (must be 0); ``passed_the_form``;
``reached_the_verb`` (of tasks: whose command line was made); ``is_traced``.
"""

import argparse
import copy
import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import zoneinfo
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from benchmarks._hostile_conf import ALLOWED, SHIPPED, confs, recipe_of_the_fields, written
from benchmarks._watch import Places, Watch, escapes_in, marked
from lumos.config import Recipe
from lumos.recipes import load
from lumos.settings import REPOSITORY, Settings
from lumos.stored import store

if TYPE_CHECKING:
    from airflow.sdk import DAG, BaseOperator

GYM = REPOSITORY / "tests" / "gym"
# What a run may change, written down apart from how LUMOS says it.
TUNED = ("training", "model", "scoring", "evaluation")
LIMITED = {
    "publishing": {
        *("min_coverage", "max_calibration_error", "max_volume_change", "max_drift"),
    },
    "quality": {"max_quarantined_share", "max_volume_change"},
}
# What hangs is an escape as well.
_START_SECONDS, _CONF_SECONDS = 180, 1.5
_SHOWN = 20


def places(home: Path) -> Places:
    """The home with its lake; and the code, which nobody may change."""
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib")]
    code = [*installed, *map(str, (REPOSITORY / "lumos", REPOSITORY / "plugins", GYM))]
    code += [str(REPOSITORY / "dags"), str(REPOSITORY / "include" / "sql")]
    # Not of a conf's making: zones, words, the random source, and what a thread asks Linux.
    system = [*zoneinfo.TZPATH, str(Path(sys.base_prefix) / "share" / "locale")]
    system += ["/dev/urandom", "/dev/null", "/etc/localtime", "/sys/fs/cgroup"]
    return Places([str(home)], [*code, *system])


def changed(asked: Recipe) -> set[str]:
    """Fields of a verb's recipe that no override may have changed: what it would read or write."""
    declared = {load(name).name: load(name).model_dump() for name in (SHIPPED, ALLOWED)}
    known, tree = declared.get(asked.name), asked.model_dump()
    if known is None:
        return {"name"}
    found = {name for name in tree if tree[name] != known[name]} - set(TUNED)
    for section, limits in LIMITED.items():
        parts = {name for name in tree[section] if tree[section][name] != known[section][name]}
        if not parts - limits:
            found.discard(section)
    return found


class Deployment:
    """The DAGs, and all that reads a run's conf."""

    def __init__(self) -> None:
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag()
        assert not bag.import_errors, bag.import_errors
        self.dags = list(bag.dags.values())
        self.told: Counter[str] = Counter()
        self.changed: set[str] = set()

    def take(self, conf: object, turn: int) -> None:
        """All that a run with this conf does, but for the verbs themselves."""
        from airflow.sdk.exceptions import ParamValidationError

        dag = self.dags[turn % len(self.dags)]
        given = conf if isinstance(conf, dict) else {"recipe": conf, "settings": conf}
        params = copy.deepcopy(dag.params)
        try:
            params.update(given)
            params.validate()
            self.told["passed_the_form"] += 1
        except (ParamValidationError, ValueError, TypeError):
            pass
        asked = {**dag.params.dump(), **given}
        for task in dag.tasks:
            self._try(lambda task=task: self._task(dag, task, asked))
        for serve in (self._triggerer, self._server, self._deadline):
            self._try(lambda serve=serve: serve(asked))

    def _try(self, do: Callable[[], object]) -> None:
        """What is refused is refused; only a process that ends is worse."""
        from airflow.sdk.exceptions import TaskDeferred

        try:
            do()
        except (Exception, TaskDeferred) as refusal:
            self.told[type(refusal).__name__] += 1

    def _task(self, dag: "DAG", task: "BaseOperator", params: dict[str, Any]) -> None:
        """Its templates, its check before, and its command line or wait."""
        start = dt.datetime(2024, 5, 10, tzinfo=dt.UTC)
        pinned = {"details": {"champion": params.get("model"), "challenger": params.get("model")}}
        mine = copy.copy(task)
        context = {
            "params": params,
            "task": mine,
            "dag_run": SimpleNamespace(triggering_user_name="x", run_type="manual"),
            "data_interval_start": start,
            "ti": SimpleNamespace(xcom_pull=lambda **_: pinned, xcom_push=lambda *_: None),
            "run_id": f"manual__{params.get('reason')}",
        }
        mine.render_template_fields(context, dag.get_template_env())
        if mine._pre_execute_hook is not None:
            self._try(lambda: mine._pre_execute_hook(context))
        if hasattr(mine, "arguments"):
            assert mine.arguments
            self.told["reached_the_verb"] += 1
            try:
                asked = mine.request().recipe
            except SystemExit:  # argparse: the task fails, and no other process hears of it
                self.told["SystemExit"] += 1
            else:
                self.changed |= changed(asked)
            for link in mine.operator_extra_links:
                link.get_link(mine, ti_key=None)
        else:
            mine.execute(context)

    def _triggerer(self, params: dict[str, Any]) -> None:
        from lumos_airflow.triggers.ready import Partition, look

        look(Partition("activity", params["recipe"], str(params.get("business_date"))))

    def _server(self, params: dict[str, Any]) -> None:
        from lumos_airflow.health.board import _folder
        from lumos_airflow.health.runs import business_date
        from lumos_airflow.links.experiment import reports_of

        self._try(lambda: reports_of(params["recipe"]))
        self._try(lambda: business_date(params, None))
        _folder(params["recipe"])

    def _deadline(self, params: dict[str, Any]) -> None:
        from lumos_airflow.alerts import Occasion
        from lumos_airflow.notify import _are_published

        run = {"dag_id": "batch_scoring", "dag_run_id": "x", "conf": params, "run_type": "manual"}
        _are_published(Occasion.of_deadline({"dag_run": run}, SHIPPED))


def child(home: Path, number: int) -> None:
    """Give so many confs to a deployment; the last line of stdout is JSON."""
    from hypothesis import HealthCheck, example, given, seed, settings

    outside = str(home.parent / "outside")
    sys.path[:0] = [str(REPOSITORY / "plugins"), str(GYM), outside]
    deployment = Deployment()
    here = Settings.from_environment()
    for name in (SHIPPED, ALLOWED):
        store(here, name, load(name))
    warm = {"recipe": ALLOWED, "settings": ["training.epochs=2"], "business_date": "2024-05-10"}
    for turn in range(len(deployment.dags)):
        deployment.take(warm, turn)
        deployment.take({**warm, "recipe": SHIPPED, "days": "x", "settings": ["a=1"]}, turn)
    reached = deployment.told["reached_the_verb"]
    assert reached, "no task was reached, so nothing would be watched"
    deployment.told.clear()
    watch = Watch(places(home), [name.partition(".")[0] for name in list(sys.modules)])
    turns = iter(range(10**9))

    @seed(7)
    @settings(
        max_examples=number, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(confs(recipe_of_the_fields(), outside))
    def run(conf: object) -> None:
        turn = next(turns)
        with marked(home), watch.of(repr(conf)):
            deployment.take(conf, turn)

    for conf in written(outside):
        run = example(conf)(run)
    run()
    found = [*watch.found, *(f"an override of {name}" for name in sorted(deployment.changed))]
    print(json.dumps({"confs": next(turns), "found": found, "told": deployment.told}))


def campaign(number: int, *, is_traced: bool) -> dict[str, Any]:
    """Run the child and judge what it did."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        root = Path(os.path.realpath(name))
        home, outside, trace = root / "home", root / "outside", root / "trace"
        (home / "tmp").mkdir(parents=True)
        outside.mkdir()
        (outside / "canary.py").write_text("def recipe():\n    raise SystemExit(9)\n")
        (outside / "secret.csv").write_text("a secret\n")
        command = [sys.executable, "-m", "benchmarks.hostile_trigger"]
        command += ["--child", str(home), "--confs", str(number)]
        if is_traced:
            tracer = ["strace", "-f", "-qq", "-e", "trace=file,process", "-e", "signal=none"]
            command = [*tracer, "-s", "4096", "-o", str(trace), *command]
        code, stdout = _run(command, home, _START_SECONDS + number * _CONF_SECONDS)
        lines = stdout.splitlines()
        if code or not lines:
            return {"confs": 0, "escapes": 1, "ended_with": code}
        said = json.loads(lines[-1])
        found = said["found"] + (escapes_in(trace, places(home)) if is_traced else [])
    for each in found[:_SHOWN]:
        print(each)
    told = said["told"]
    print(", ".join(f"{name}: {count}" for name, count in sorted(told.items())))
    kept = {name: told.get(name, 0) for name in ("passed_the_form", "reached_the_verb")}
    return {"confs": said["confs"], "escapes": len(found), **kept, "is_traced": is_traced}


def _run(command: list[str], home: Path, seconds: float) -> tuple[int, str]:
    """The exit code and stdout; whatever it has started ends with it."""
    started = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, _ = started.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        return started.wait(), ""
    return started.returncode, stdout


def environment(home: Path) -> dict[str, str]:
    """Of a deployment that allows one recipe beside the shipped ones."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "LUMOS"))}
    return {
        **kept,
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
        "LUMOS_HOME": str(home),
        "LUMOS_ALLOWED_RECIPES": ALLOWED,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "plugins"), str(GYM)]),
        "TMPDIR": str(home / "tmp"),
    }


def main() -> None:
    """Run the campaign, or be its child."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--confs", type=int, default=3000)
    parser.add_argument("--no-strace", action="store_true", help="watch by the audit hook alone")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.confs)
        return
    is_traced = not given.no_strace and shutil.which("strace") is not None
    if is_traced:
        probe = ["strace", "-f", "-e", "trace=file", "-o", os.devnull, "true"]
        is_traced = not subprocess.run(probe, check=False, capture_output=True).returncode
    print(json.dumps(campaign(given.confs, is_traced=is_traced)))


if __name__ == "__main__":
    main()
