"""The agent on a machine that really runs, around a verb that does as it is told.

One machine serves all tests of this file: each has a job of its own on it, and no other
``shutdown`` than the machine's is ever called.
"""

import hashlib
import json
import shutil
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from hypothesis import example, given
from hypothesis import strategies as st

from lumos.host import agent, bootstrap
from lumos.host.folder import Folder
from lumos.host.job import RESULT, STOP, chunk_name, pack_lines, unpack_lines
from lumos.settings import REPOSITORY
from tests.cloud.aws import Aws
from tests.cloud.faults import AIRFLOW, Rule
from tests.cloud.waiting import eventually
from tests.host.bench import BUCKET, Bench, a_job

pytestmark = pytest.mark.timeout(60)


class Storage:
    """A folder in memory; the test says what becomes of each write."""

    def __init__(self, *fates: str) -> None:
        self.written: dict[str, bytes] = {}
        self.names: list[str] = []
        self._fates = list(fates)

    def write(self, name: str, data: bytes) -> str:
        fate = self._fates.pop(0) if self._fates else "ok"
        if fate != "fails":
            self.written[name] = data
            self.names.append(name)
        if fate != "ok":
            raise OSError(fate)
        return "etag"


def shipped(storage: Storage) -> list[tuple[int, str]]:
    return [
        line for name in sorted(storage.written) for line in unpack_lines(storage.written[name])
    ]


# -- the log


@given(st.lists(st.tuples(st.integers(0, 50), st.text())))
@example([(20, "what splitlines() splits at: \x0b \x0c \x1c \x1d \x1e \x85 \u2028 \u2029 \r\n")])
@example([(20, "half a pair: \ud800")])
def test_any_line_arrives_as_it_was(lines):
    assert unpack_lines(pack_lines(lines)) == lines


def test_chunks_come_in_order_and_whole_whatever_fails_now_and_then():
    storage = Storage("ok", "fails", "fails", "ok", "lost", "fails", "ok", "lost", "lost")
    shipper = agent.Shipper(storage, "i-1")
    lines = [(20, f"line {number}") for number in range(9000)]
    for start in range(0, 9000, 1500):
        for line in lines[start : start + 1500]:
            shipper.add(*line)
        try:
            shipper.ship()
        except OSError:
            continue
    agent.insist(shipper.ship, patience_seconds=60, pause=0.001)
    assert shipped(storage) == lines
    assert sorted(storage.written) == [chunk_name("i-1", n + 1) for n in range(shipper.num_chunks)]
    assert storage.names == sorted(storage.names)


def test_a_chunk_that_may_have_been_read_already_never_changes():
    storage = Storage("lost")
    shipper = agent.Shipper(storage, "i-1")
    shipper.add(20, "before")
    with pytest.raises(OSError, match="lost"):
        shipper.ship()
    read = dict(storage.written)
    shipper.add(20, "after")
    shipper.ship()
    assert {name: storage.written[name] for name in read} == read
    assert shipped(storage) == [(20, "before"), (20, "after")]


def test_lines_may_come_from_any_thread_while_they_are_shipped():
    storage = Storage()
    shipper = agent.Shipper(storage, "i-1")
    writers = [
        threading.Thread(target=lambda n=n: [shipper.add(n, str(i)) for i in range(3000)])
        for n in range(4)
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        shipper.ship()
    shipper.ship()
    for n in range(4):
        assert [text for level, text in shipped(storage) if level == n] == list(
            map(str, range(3000))
        )


def test_insisting_ends_with_the_last_error():
    tries: list[int] = []

    def act() -> None:
        tries.append(1)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        agent.insist(act, patience_seconds=0.05, pause=0.001)
    assert len(tries) > 2


def test_a_verb_that_does_not_leave_when_asked_is_ended_later(monkeypatch):
    asked: list[str] = []
    verb = SimpleNamespace(
        interrupt=lambda: asked.append("leave"), stop=lambda: asked.append("end")
    )
    running = agent.Agent(a_job("i-1"), Storage(), "i-1")
    running._command = verb
    running.ask("stop")
    running.ask("spot")
    running._look_around()
    assert (asked, running.cause) == (["leave"], "stop")
    monkeypatch.setattr(agent, "_SAVE_SECONDS", 0.0)
    running._look_around()
    assert asked == ["leave", "end"]


# -- on a machine


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is, around another program than ``lumos``."""
    folder = Path(tmp_path_factory.mktemp("code"))
    ignored = shutil.ignore_patterns("__pycache__", "__main__.py")
    shutil.copytree(REPOSITORY / "lumos", folder / "lumos", ignore=ignored)
    stand_in = REPOSITORY / "tests" / "cloud" / "verb_stand_in.py"
    shutil.copy(stand_in, folder / "lumos" / "__main__.py")
    return folder


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with Aws(Path(tmp_path_factory.mktemp("cloud")), boot_seconds=0.0, agent_seconds=0.0) as aws:
        aws.client("s3").create_bucket(Bucket=BUCKET)
        network = aws.network()
        aws.client("ec2").run_instances(
            ImageId=network["ami"],
            MinCount=1,
            MaxCount=1,
            IamInstanceProfile={"Name": network["instance_profile"]},
            MetadataOptions={"HttpTokens": "required"},
        )
        (instance,) = aws.instances()
        eventually(lambda: instance.state == "running")
        yield SimpleNamespace(aws=aws, instance=instance)


@pytest.fixture
def bench(host: SimpleNamespace, code: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    name = request.node.name.removeprefix("test_").replace("[", "-").replace("]", "")[:60]
    yield Bench(host.aws, host.instance, code, name)
    host.aws.faults.rules.clear()


def puts(ending: str) -> Callable[[Any], bool]:
    return lambda call: ending in call.parameters["Key"]


def test_the_log_is_whole_and_the_result_counts_it_while_storage_fails(bench):
    rule = Rule("deny", "s3", "PutObject", caller="instance", when=puts("/log-"), nth=(1, 3))
    bench.aws.faults.add(rule)
    result = bench.run("lines:5000")
    assert (result.code, result.cause) == (0, "ended")
    assert json.loads(result.last_line)["verb"] == "score"
    said = [line for line in bench.log if "stand-in: line " in line]
    assert said == [f"12:00:00 INFO stand-in: line {number}" for number in range(5000)]
    assert bench.folder.read(chunk_name(bench.instance.id, result.num_chunks)) is not None
    assert bench.folder.read(chunk_name(bench.instance.id, result.num_chunks + 1)) is None
    assert bench.aws.faults.struck(rule) == 2


def test_the_result_is_written_however_often_storage_refuses_it_first(bench):
    rule = Rule("deny", "s3", "PutObject", caller="instance", when=puts(RESULT), times=2)
    bench.aws.faults.add(rule)
    assert bench.run("exit:3").code == 3
    assert bench.aws.faults.struck(rule) == 2
    assert bench.result.last_error == "12:00:00 ERROR lumos: the sentence for people"


def test_a_job_that_is_asked_for_again_runs_once(bench):
    first = bench.start("work")
    eventually(bench.is_working)
    second = bench.start("work")
    _, said = second.communicate(timeout=60)
    assert b"runs here already" in said
    assert second.returncode == 0
    assert first.poll() is None
    bench.folder.write(STOP, b"")
    first.communicate(timeout=60)
    assert first.returncode == bench.result.code == 75
    assert bench.result.cause == "stop"
    before = bench.everything()
    _, said = bench.start("work").communicate(timeout=60)
    assert b"ran here already" in said
    assert bench.everything() == before


def test_what_a_killed_agent_began_is_not_begun_again_there(bench):
    first = bench.start("work")
    eventually(bench.is_working)
    first.kill()
    first.communicate()
    has_verb = lambda line: "score" in line.split()  # noqa: E731
    eventually(lambda: not any(map(has_verb, bench.aws.command_lines(bench.instance.id))))
    again = bench.start("report")
    again.communicate(timeout=60)
    assert again.returncode == 0
    assert bench.folder.read(f"{bench.instance.id}/{RESULT}") is None


def test_a_machine_that_shuts_down_has_its_verb_save_and_leave(bench):
    running = bench.start("work")
    eventually(bench.is_working)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert (bench.result.code, bench.result.cause) == (75, "shutdown")
    assert "asking the verb to save and leave: this machine is shutting down" in bench.log
    bucket, key = bench.states.removeprefix("s3://").split("/", 1)
    saved = bench.aws.client("s3").get_object(Bucket=bucket, Key=f"{key}/state")
    assert saved["Body"].read() == b"saved"


def test_a_verb_out_of_time_is_asked_to_save_and_leave(bench):
    # Before it listens for SIGTERM a verb has nothing to save, and just ends.
    result = bench.run("work", budget_seconds=4)
    assert (result.code, result.cause) == (75, "budget")
    assert result.seconds >= 4


def test_the_switch_is_put_off_while_a_verb_runs_and_set_for_soon_after_it(bench):
    running = bench.start("work")
    eventually(bench.is_working)
    switch = bench.instance.folder / ".shutdown"
    eventually(lambda: switch.read_text() == str(agent.ALIVE_MINUTES))
    bench.folder.write(STOP, b"")
    running.communicate(timeout=60)
    assert switch.read_text() == str(agent.ENDED_MINUTES)


# -- while S3 or its answer is missing


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_call_to_an_s3_that_accepts_and_never_answers_ends(silent_server, monkeypatch):
    for name, value in {"ENDPOINT_URL": silent_server, "ACCESS_KEY_ID": "k"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    # With its real limits it takes half a minute at most, of the ten until the switch.
    limits = bootstrap._CONNECT_SECONDS + bootstrap._READ_SECONDS
    assert bootstrap._ATTEMPTS * limits < 30 < 60 * agent.ALIVE_MINUTES / 10
    monkeypatch.setattr(bootstrap, "_READ_SECONDS", 0.1)
    folder = Folder(bootstrap.s3_client("us-east-1"), "s3://acme/jobs")
    started = time.monotonic()
    with pytest.raises(ReadTimeoutError):
        folder.write("pulse", b"")
    assert time.monotonic() - started < 30


def test_a_hanging_s3_delays_neither_the_switch_nor_a_spot_notice_nor_the_result(bench):
    running = bench.start("work")
    eventually(bench.is_working)
    switch = bench.instance.folder / ".shutdown"
    is_ours = lambda call: str(call.parameters["Key"]).startswith("jobs/")  # noqa: E731
    hanging = bench.aws.faults.add(Rule("hang", "s3", caller="instance", when=is_ours))
    eventually(lambda: bench.aws.faults.struck(hanging) >= 2)
    seen = set()
    eventually(lambda: seen.add(switch.stat().st_mtime_ns) or len(seen) >= 3)
    bench.instance.notice = time.time() + 120
    try:
        # The verb has saved its state while nothing of the agent reached S3.
        bucket, key = bench.states.removeprefix("s3://").split("/", 1)
        listed = lambda: bench.aws.client("s3").list_objects_v2(Bucket=bucket, Prefix=key)  # noqa: E731
        eventually(lambda: listed()["KeyCount"])
        assert bench.folder.read(f"{bench.instance.id}/{RESULT}") is None
    finally:
        bench.instance.notice = None
        bench.aws.faults.remove(hanging)
    running.communicate(timeout=60)
    assert (bench.result.code, bench.result.cause) == (75, "spot")
    assert "asking the verb to save and leave: AWS takes this spot instance back" in str(bench.log)


def test_the_code_is_fetched_when_s3_answers_again_and_not_asked_for_again_where_it_refuses(bench):
    s3 = bench.aws.client("s3", caller=AIRFLOW)
    bench.folder.write("wheel", b"code")
    uri, digest = f"{bench.folder.uri}/wheel", hashlib.sha256(b"code").hexdigest()
    failing = bench.aws.faults.add(Rule("fail", "s3", "GetObject", times=2))
    assert bootstrap.fetch(s3, uri, digest) == b"code"
    assert bench.aws.faults.struck(failing) == 2
    refusing = bench.aws.faults.add(Rule("deny", "s3", "GetObject"))
    with pytest.raises(ClientError, match="AccessDenied"):
        bootstrap.fetch(s3, uri, digest)
    assert bench.aws.faults.struck(refusing) == 1


# -- secrets


def test_a_secret_reaches_the_verb_and_is_written_nowhere(bench):
    word = "hunter2-but-longer"
    manager = bench.aws.client("secretsmanager")
    manager.create_secret(Name="lumos/word", SecretString=word)
    result = bench.run("report", secrets={"MLFLOW_TRACKING_PASSWORD": "lumos/word"})
    assert result.code == 0
    assert word.encode() not in bench.everything()
    assert not any(word in path.read_text(errors="replace") for path in files(bench))
    seen = Bench(bench.aws, bench.instance, bench.code, "secret-seen")
    # Only a verb that says its environment aloud gives it away: so it was there.
    said = seen.run("environment", secrets={"MLFLOW_TRACKING_PASSWORD": "lumos/word"})
    assert json.loads(said.last_line)["environment"]["MLFLOW_TRACKING_PASSWORD"] == word


def files(bench: Bench) -> list[Path]:
    return [path for path in bench.instance.folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", ["missing", "denied", "binary"])
def test_a_secret_that_cannot_be_read_is_a_sentence(bench, kind):
    name = f"lumos/{kind}"
    if kind == "binary":
        bench.aws.client("secretsmanager").create_secret(Name=name, SecretBinary=b"\x00")
    if kind == "denied":
        bench.aws.faults.add(Rule("deny", "secretsmanager", caller="instance"))
    result = bench.run("report", secrets={"WORD": name})
    assert result.code == 1
    assert f"the secret {name} for WORD" in result.last_error
    assert "[secrets] in LUMOS_CLOUD" in result.last_error
    assert not any("stand-in" in line for line in bench.log)


# -- what the machine knows of itself


def test_metadata_is_asked_for_with_a_session_s_token_only(host, monkeypatch):
    base = host.instance.environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"]
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{base}/")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{base}/latest/meta-data/instance-id", timeout=5)
    assert bootstrap.metadata("instance-id") == host.instance.id
    assert bootstrap.metadata("spot/instance-action") is None
    host.instance.notice = 1.0
    try:
        assert json.loads(bootstrap.metadata("spot/instance-action"))["action"] == "terminate"
    finally:
        host.instance.notice = None
