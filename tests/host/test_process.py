import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from lumos.host.process import Command, Ended, child_environment
from lumos.settings import REPOSITORY

PRETEND = str(Path(__file__).with_name("pretend.py"))
FAMILY = ("own", "child", "leader", "orphan")


def command(*arguments: str) -> Command:
    return Command([sys.executable, PRETEND, *arguments], environment=child_environment(os.environ))


def ignore(level: int, line: str) -> None:
    del level, line


def until(happened, seconds: float = 20.0) -> None:
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


def test_the_last_line_of_stdout_is_the_report_and_the_others_are_logged():
    lines: list[str] = []
    ended = command("report").run(lambda _, line: lines.append(line))
    assert ended.code == 0
    assert ended.report["verb"] == "pretend"
    assert lines == ["a stray line"]


def test_stderr_is_logged_line_by_line_while_the_verb_runs_at_its_level(tmp_path):
    seen: list[tuple[int, str]] = []

    def log(level: int, line: str) -> None:
        seen.append((level, line))
        (tmp_path / "seen").touch()  # the verb ends only after its line was handed on

    ended = command("live", str(tmp_path)).run(log)
    assert ended.code == 0
    assert seen[0] == (logging.WARNING, "12:00:00 WARNING lumos: first")


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_exit_code_of_the_verb_is_handed_on_with_its_sentence(code):
    ended = command("exit", str(code)).run(ignore)
    assert ended.code == code
    assert ended.last_error == "12:00:00 ERROR lumos: the sentence for people"


def test_a_verb_killed_by_a_signal_ends_with_128_and_its_number():
    assert command("kill-self").run(ignore).code == 128 + signal.SIGKILL


def test_a_last_line_that_is_no_json_object_is_quoted():
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


def test_stopping_ends_every_process_even_stubborn_ones_in_sessions_of_their_own(tmp_path):
    running = command("family", str(tmp_path))
    found: list[Ended] = []
    thread = threading.Thread(target=lambda: found.append(running.run(ignore)))
    thread.start()
    processes = family(tmp_path)
    running.stop()
    thread.join(timeout=20)
    assert found[0].code == 128 + signal.SIGTERM
    assert all(is_gone(process) for process in processes)


def test_nothing_is_left_when_the_verb_itself_is_killed_with_9(tmp_path):
    running = command("family", str(tmp_path))
    found: list[Ended] = []
    thread = threading.Thread(target=lambda: found.append(running.run(ignore)))
    thread.start()
    processes = family(tmp_path)
    processes[0].kill()
    thread.join(timeout=20)
    assert found[0].code == 128 + signal.SIGKILL
    assert all(is_gone(process) for process in processes)


def test_nothing_is_left_when_the_task_is_killed_with_9(tmp_path):
    script = (
        "import os, sys; from lumos.host.process import Command\n"
        f"Command([sys.executable, {PRETEND!r}, 'family', {str(tmp_path)!r}], "
        "environment=os.environ).run(lambda level, line: None)"
    )
    task = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")},
    )
    processes = family(tmp_path)
    task.kill()
    task.wait()
    until(lambda: all(is_gone(process) for process in processes))


def test_nothing_is_left_when_airflows_worker_is_killed_with_9(tmp_path):
    """The worker is the task's parent; the task then hears of it as a SIGTERM."""
    inner = (
        "import os, signal, sys\n"
        "from lumos.host.process import Command, die_with_supervisor\n"
        f"it = Command([sys.executable, {PRETEND!r}, 'family', {str(tmp_path)!r}], "
        "environment=os.environ)\n"
        "signal.signal(signal.SIGTERM, lambda *_: it.stop())\n"
        "with die_with_supervisor():\n"
        "    it.run(lambda level, line: None)\n"
    )
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    worker = subprocess.Popen(
        [sys.executable, "-c", outer],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")},
    )
    processes = family(tmp_path)
    worker.kill()
    worker.wait()
    until(lambda: all(is_gone(process) for process in processes))


def test_torchrun_hands_on_what_its_rank_ended_with():
    """Of itself it exits with 1, and a retry of bad input would be useless."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ended = Command(
        [*torchrun, "--nproc-per-node=1", PRETEND, "exit", "2"],
        environment=child_environment(os.environ),
    ).run(ignore)
    assert ended.code == 2
    assert "the sentence for people" in ended.last_error
