import datetime as dt
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from demo.processes import PidFile, PortTaken, free_port
from demo.story import Job, Told
from demo.summary import facts, longest_chain, metrics_table
from lumos.serve.evaluate import _summary
from lumos.settings import REPOSITORY

DAY = dt.date(2017, 12, 10)


def job(verb: str, seconds: float | None, day: int = 0) -> Job:
    date = DAY + dt.timedelta(days=day)
    return Job("dag", verb, date, "success", seconds or 1.0, seconds)


def test_the_longest_chain_follows_what_a_verb_needs_not_what_ran_at_once():
    jobs = [
        *(job("land", 10), job("aggregate", 30), job("sequences", 10), job("validate", 80)),
        *(job("train", 60), job("evaluate", 10), job("promote", 5), job("score", 8)),
        *(job("publish", 4), job("assign", 5), job("measure", 5), job("wait_activity", None)),
    ]
    seconds, path = longest_chain(jobs)
    # Sequences to promote take 85 s, which is longer than validate beside them.
    assert seconds == 10 + 30 + 10 + 60 + 10 + 5 + 8 + 4
    assert path[0] == f"land {DAY}"
    assert f"validate {DAY}" not in path


def test_the_days_that_follow_wait_for_the_first_one_where_the_demo_does():
    first = [
        *(job("land", 10), job("aggregate", 30), job("sequences", 5), job("train", 50)),
        *(job("evaluate", 5), job("promote", 1), job("score", 5), job("publish", 4)),
    ]
    next_days = [job("land", 3, day=2), job("aggregate", 7, day=1), job("aggregate", 7, day=2)]
    scores = [job("score", 6, day=1), job("score", 6, day=2), job("report", 2, day=2)]
    jobs = [*first, *next_days, *scores]
    # The tables of the next days are made beside the training, their scores after the first's.
    chain = 10 + 30 + 5 + 50 + 5 + 1 + 5 + 6 + 6
    assert longest_chain(jobs)[0] == chain
    found = facts(Told(jobs, [], 160.0))
    assert found["orchestration_share"] == pytest.approx(1 - chain / 160, abs=1e-4)
    assert found["overhead_s"] == 160 - chain
    assert longest_chain([*first[:2], *next_days])[0] == 10 + 30 + 3 + 7 + 7


def test_tasks_that_were_tried_again_are_counted():
    jobs = [job("land", 1), replace(job("train", 1), tries=3), replace(job("score", 1), tries=2)]
    assert facts(Told(jobs, [], 3.0))["attempts"] == 2


def test_metrics_stand_beside_those_of_the_baselines():
    measured = {"visit_3d.auc": 0.8, "primary_loss": 0.7}
    segments = ("challenger", "challenger|held_out", "lightgbm")
    table = metrics_table(_summary(dict.fromkeys(segments, measured)))
    assert [column.header for column in table.columns] == ["metric", "challenger", "lightgbm"]
    assert [list(column.cells) for column in table.columns] == [
        ["visit_3d.auc", "primary_loss", "primary_loss (held_out)"],
        ["0.8000", "0.7000", "0.7000"],
        ["0.8000", "0.7000", ""],
    ]


def test_a_port_that_is_taken_is_refused_with_the_remedy():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {port} is taken .* give another one with"):
            free_port(port)
        assert free_port(preferred=port) != port
        done = subprocess.run(
            [sys.executable, "-m", "demo", "up", f"--port={port}"],
            cwd=REPOSITORY,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert f"port {port} is taken" in done.stdout


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [("--date=12/10/2017", "is not a day written as"), ("--recipe=nobody", "is unknown")],
)
def test_a_bad_argument_ends_the_demo_before_it_starts(argument, sentence, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "demo", "run", argument],
        cwd=REPOSITORY,
        env={**os.environ, "LUMOS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert sentence in done.stdout
    assert not (tmp_path / "airflow").exists()


def test_a_home_that_cannot_be_written_to_ends_the_demo_with_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "demo", "up"],
        cwd=REPOSITORY,
        env={**os.environ, "LUMOS_HOME": str(tmp_path / "file" / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "set LUMOS_HOME to another one" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr


def test_a_pid_that_was_given_to_another_process_is_not_ours(tmp_path):
    file = PidFile(tmp_path / "run" / "supervisor.json")
    assert file.read() is None
    file.write(url="http://here")
    facts_ = file.read()
    assert facts_ is not None
    assert facts_["url"] == "http://here"
    file.path.write_text(json.dumps({**facts_, "started": 1.0}))
    assert file.read() is None
    file.path.write_text("")  # by a power cut
    assert file.read() is None


def test_stopping_what_does_not_run_is_fine(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "demo", "down"],
        cwd=REPOSITORY,
        env={**os.environ, "LUMOS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no Airflow is running" in done.stdout
