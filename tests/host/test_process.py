import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo.processes import Component
from lumos.host.process import Command, Ended, child_environment
from lumos.sockets import SOCKET

PRETEND = str(Path(__file__).with_name("pretend.py"))
MODULE = [sys.executable, "-m", "tests.host.pretend"]
FAMILY = ("own", "child", "leader", "orphan")


@pytest.fixture(scope="module")
def warm_folder(tmp_path_factory) -> Iterator[Path]:
    """Where a process listens that forks verbs."""
    folder = tmp_path_factory.mktemp("warm") / ("long" * 30)
    folder.mkdir()
    component = Component(
        "warm-verbs",
        [sys.executable, "-m", "lumos.host.warm", str(folder / "warm")],
        folder=folder,
        environment=child_environment(os.environ),
    )
    until(lambda: (folder / "warm" / SOCKET).exists() or not component.is_running)
    yield folder / "warm"
    assert component.is_running, component.last_lines()
    component.terminate()
    component.join()


@pytest.fixture(params=["of its own", "forked"])
def warm(request) -> Path | None:
    """How processes start."""
    return request.getfixturevalue("warm_folder") if request.param == "forked" else None


@pytest.fixture
def command(warm) -> Callable[..., Command]:
    """Makes the command that has these arguments."""

    def make(*arguments: str) -> Command:
        environment = child_environment(os.environ)
        return Command([*MODULE, *arguments], environment=environment, warm=warm)

    return make


def ignore(level: int, line: str) -> None:
    del level, line


def until(happened, seconds: float = 60.0) -> None:
    """Poll; a test must not guess how long a process takes."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def family(folder: Path) -> list[psutil.Process]:
    until(lambda: all((folder / f"{name}.pid").exists() for name in FAMILY))
    return [psutil.Process(int((folder / f"{name}.pid").read_text())) for name in FAMILY]


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_the_last_line_of_stdout_is_the_report_and_the_others_are_logged(command):
    lines: list[str] = []
    ended = command("report").run(lambda _, line: lines.append(line))
    assert ended.code == 0
    assert ended.report["verb"] == "pretend"
    assert lines == ["a stray line"]


def test_stderr_is_logged_line_by_line_while_the_verb_runs_at_its_level(command, tmp_path):
    seen: list[tuple[int, str]] = []

    def log(level: int, line: str) -> None:
        seen.append((level, line))
        (tmp_path / "seen").touch()  # the verb ends only after its line was handed on

    ended = command("live", str(tmp_path)).run(log)
    assert ended.code == 0
    assert seen[0] == (logging.WARNING, "12:00:00 WARNING lumos: first")


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_exit_code_of_the_verb_is_handed_on_with_its_sentence(command, code):
    ended = command("exit", str(code)).run(ignore)
    assert ended.code == code
    assert ended.last_error == "12:00:00 ERROR lumos: the sentence for people"


def test_a_verb_killed_by_a_signal_ends_with_128_and_its_number(command):
    assert command("kill-self").run(ignore).code == 128 + signal.SIGKILL


def test_a_last_line_that_is_no_json_object_is_quoted(command):
    with pytest.raises(ValueError, match="it was 'not JSON at all'"):
        _ = command("chatter").run(ignore).report
    with pytest.raises(ValueError, match="one JSON object"):
        _ = Ended(0, "[1, 2]", "").report


def test_airflows_secrets_stay_with_airflow():
    given = {
        "PATH": "/bin",
        "JAVA_HOME": "/java",
        "LUMOS_HOME": "/home",
        "MLFLOW_TRACKING_URI": "sqlite://",
        "AIRFLOW_HOME": "/airflow",
        "AIRFLOW_CONN_AWS": "secret",
        "AIRFLOW_VAR_KEY": "secret",
        "AIRFLOW__API_AUTH__JWT_SECRET": "secret",
        "_AIRFLOW_PROCESS_CONTEXT": "client",
        "__AIRFLOW_DEFER": "1",
    }
    kept = child_environment(given, {"TMPDIR": "/scratch"})
    assert set(kept) == {
        *("PATH", "JAVA_HOME", "LUMOS_HOME", "MLFLOW_TRACKING_URI"),
        *("PYTHONUNBUFFERED", "TMPDIR"),
    }


def test_stopping_ends_every_process_even_stubborn_ones_in_sessions_of_their_own(command, tmp_path):
    running = command("family", str(tmp_path))
    found: list[Ended] = []
    thread = threading.Thread(target=lambda: found.append(running.run(ignore)), daemon=True)
    thread.start()
    processes = family(tmp_path)
    running.stop()
    thread.join(timeout=60)
    assert found[0].code == 128 + signal.SIGTERM
    assert all(is_gone(process) for process in processes)


def test_nothing_is_left_when_the_verb_itself_is_killed_with_9(command, tmp_path):
    running = command("family", str(tmp_path))
    found: list[Ended] = []
    thread = threading.Thread(target=lambda: found.append(running.run(ignore)), daemon=True)
    thread.start()
    processes = family(tmp_path)
    processes[0].kill()
    thread.join(timeout=60)
    assert found[0].code == 128 + signal.SIGKILL
    assert all(is_gone(process) for process in processes)


def test_nothing_is_left_when_the_task_is_killed_with_9(warm, tmp_path):
    script = (
        "import os; from pathlib import PosixPath; from lumos.host.process import Command\n"
        f"Command([*{MODULE!r}, 'family', {str(tmp_path)!r}], "
        f"environment=os.environ, warm={warm!r}).run(lambda level, line: None)"
    )
    task = subprocess.Popen(
        [sys.executable, "-c", script],
        env=child_environment(os.environ),
    )
    processes = family(tmp_path)
    task.kill()
    task.wait()
    until(lambda: all(is_gone(process) for process in processes))


def test_nothing_is_left_when_airflows_worker_is_killed_with_9(warm, tmp_path):
    """The worker is the task's parent; the task then hears of it as a SIGTERM."""
    inner = (
        "import os, signal\n"
        "from pathlib import PosixPath\n"
        "from lumos.host.process import Command, die_with_supervisor\n"
        f"it = Command([*{MODULE!r}, 'family', {str(tmp_path)!r}], "
        f"environment=os.environ, warm={warm!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: it.stop())\n"
        "with die_with_supervisor():\n"
        "    it.run(lambda level, line: None)\n"
    )
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    worker = subprocess.Popen(
        [sys.executable, "-c", outer],
        env=child_environment(os.environ),
    )
    processes = family(tmp_path)
    worker.kill()
    worker.wait()
    until(lambda: all(is_gone(process) for process in processes))


def facts(warm: Path | None, **changes: str) -> dict[str, Any]:
    """What a process says of itself."""
    lines: list[str] = []
    environment = {**child_environment(os.environ), **changes}
    command = Command([*MODULE, "process", "x y"], environment=environment, warm=warm)
    ended = command.run(lambda _, line: lines.append(line))
    assert lines == ["the end of the process"]
    return ended.report


def test_a_fork_is_as_a_process_of_its_own_but_for_what_is_imported(warm_folder):
    own, fork = facts(None, MINE="1"), facts(warm_folder, MINE="1")
    assert (own.pop("modules"), fork.pop("modules")) == ([], ["mlflow", "torch"])
    assert [shlex.join(own.pop("title"))] == fork.pop("title")
    assert fork == own


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "PYTHONHASHSEED", "MLFLOW_TRACKING_URI"])
def test_what_is_read_when_libraries_are_loaded_must_be_equal_or_it_is_no_fork(
    warm_folder, variable
):
    assert facts(warm_folder, **{variable: "3"})["modules"] == []


def test_without_a_warm_process_or_in_a_folder_open_to_others_a_verb_starts_its_own(
    warm_folder, tmp_path
):
    assert facts(tmp_path / "nothing")["modules"] == []
    warm_folder.chmod(0o755)
    try:
        assert facts(warm_folder)["modules"] == []
    finally:
        warm_folder.chmod(0o700)


def test_torchrun_hands_on_what_its_rank_ended_with():
    """Of itself it exits with 1, and a retry of bad input would be useless."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ended = Command(
        [*torchrun, "--nproc-per-node=1", PRETEND, "exit", "2"],
        environment=child_environment(os.environ),
    ).run(ignore)
    assert ended.code == 2
    assert "the sentence for people" in ended.last_error
