"""The campaign against a hostile trigger, in short, and that it would see an escape."""

import contextlib
import json
import subprocess
import sys

import pytest

from benchmarks._watch import BEGIN, END, Places, Watch, escapes_in
from lumos.settings import REPOSITORY


def test_nothing_that_a_run_can_ask_for_leaves_the_home_the_lake_and_the_allowed_recipes():
    command = [sys.executable, "-m", "benchmarks.hostile_trigger", "--confs", "10", "--no-strace"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["escapes"] == 0, done.stdout
    assert told["confs"] > 50
    assert told["reached_the_verb"] > 20


@pytest.fixture(scope="module")
def watch(tmp_path_factory) -> Watch:
    """A hook stays for the rest of the process, so there is one."""
    home = tmp_path_factory.mktemp("home")
    (home / "mine").write_text("")
    return Watch(Places([str(home)], [str(REPOSITORY / "lumos")]), ["json", "lumos"])


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("open('/etc/hostname')", "open"),
        ("open(MINE)", ""),
        ("open(MINE, 'a')", ""),
        ("open(CODE)", ""),
        ("open(CODE, 'a')", "open"),
        ("__import__('antigravity_of_nobody')", "import"),
        ("__import__('lumos.cli_of_nobody')", "import"),
        ("__import__('subprocess').run(['true'])", "subprocess"),
        ("__import__('socket').create_connection(('127.0.0.1', 9))", "socket"),
        ("__import__('os').remove('/nowhere')", "os.remove"),
        ("__import__('os').listdir('/etc')", "os.listdir"),
    ],
)
def test_an_escape_would_be_seen(watch, code, seen):
    watch.found.clear()
    names = {"MINE": f"{watch.places.own[0]}/mine", "CODE": str(REPOSITORY / "lumos" / "cli.py")}
    with watch.of("lumos.cli_of_nobody"), contextlib.suppress(OSError, ImportError):
        eval(code, names)
    events = [each.split()[0] for each in watch.found]
    assert any(event.startswith(seen) for event in events) if seen else events == []


def test_an_escape_would_be_seen_in_a_trace(tmp_path):
    trace = tmp_path / "trace"
    calls = [
        'openat(AT_FDCWD, "/etc/before", O_RDONLY) = 3',
        f'newfstatat(AT_FDCWD, "/home/{BEGIN}", 0x1, 0) = -1 ENOENT',
        'openat(AT_FDCWD, "/home/lake/x", O_WRONLY|O_CREAT) = 3',
        'openat(AT_FDCWD, "/code/x.py", O_RDONLY) = 3',
        'newfstatat(AT_FDCWD, "/", 0x1, 0) = 0',
        "clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 9",
        'openat(AT_FDCWD, "/code/x.py", O_RDWR) = 3',
        'openat(AT_FDCWD, "/etc/passwd", O_RDONLY) = 3',
        'unlink("/code/x.py") = 0',
        'execve("/bin/true", ["true"], 0x1) = 0',
        "clone(child_stack=NULL, flags=SIGCHLD) = 9",
        f'newfstatat(AT_FDCWD, "/home/{END}", 0x1, 0) = -1 ENOENT',
        'openat(AT_FDCWD, "/etc/after", O_RDONLY) = 3',
    ]
    trace.write_text("".join(f"7 {call}\n" for call in calls))
    found = escapes_in(trace, Places(["/home"], ["/code"]))
    assert [each.split(" ", 1)[1] for each in found] == calls[6:11]
