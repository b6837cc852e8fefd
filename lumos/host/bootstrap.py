"""The first lines that run on a rented machine: fetch the job and its code, check both, start it.

Sent as text through SSM (the machine has a virtual environment, but not this code), so it
imports nothing of LUMOS. What is asked for lies in S3; the command line holds its address and
SHA-256 only, and nothing that a user typed ever reaches a shell.

Usage: ``python bootstrap.py s3://BUCKET/.../job.json SHA256 REGION``
"""

import hashlib
import json
import logging
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.exceptions import BotoCoreError, ClientError

T = TypeVar("T")
log = logging.getLogger(__name__)

_METADATA = "http://169.254.169.254"
_BAD_INPUT = 2
# boto3 asks for this machine's credentials once, for a second: a busy moment, and it has none.
PATIENCE = {"AWS_METADATA_SERVICE_TIMEOUT": "5", "AWS_METADATA_SERVICE_NUM_ATTEMPTS": "10"}
# Of one call to S3. Whoever calls tries again by themselves: a call that never ends is worse than
# one that fails. botocore's own are 60 s and 60 s, five times.
_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 3.0, 5.0, 2
_FETCH_SECONDS = 600.0


class Refused(Exception):
    """What was fetched is not what was asked for; the message is for people."""


def metadata(path: str) -> str | None:
    """One value of the instance's metadata service (IMDSv2), or ``None`` where it has none."""
    base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", _METADATA).rstrip("/")
    asked = urllib.request.Request(
        f"{base}/latest/api/token",
        method="PUT",
        headers={"X-aws-ec2-metadata-token-ttl-seconds": "300"},
    )
    with urllib.request.urlopen(asked, timeout=5) as answer:
        token = answer.read().decode()
    wanted = urllib.request.Request(
        f"{base}/latest/meta-data/{path}", headers={"X-aws-ec2-metadata-token": token}
    )
    try:
        with urllib.request.urlopen(wanted, timeout=5) as answer:
            found: str = answer.read().decode()
            return found
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def s3_client(region: str) -> Any:  # noqa: ANN401 - boto3 makes its clients at run time
    """Impatient with a storage that does not answer."""
    return boto3.client("s3", region_name=region, config=impatient())


def impatient() -> Any:  # noqa: ANN401
    """Of a client: a call ends within seconds."""
    return boto3.session.Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
    )


def insist(
    act: Callable[[], T],
    *,
    patience_seconds: float,
    pause: float = 0.5,
    may_pass: Callable[[Exception], bool] = lambda _: True,
) -> T:
    """Do it, again and again with growing pauses while it fails.

    Raises:
        Exception: The last one, after ``patience_seconds``, or one that does not pass by itself.
    """
    until = time.monotonic() + patience_seconds
    while True:
        try:
            return act()
        except Exception as error:
            if time.monotonic() + pause > until or not may_pass(error):
                raise
            log.warning("trying again in %.1f s: %s", pause, error)
            time.sleep(pause)
            pause = min(2 * pause, 20.0)


def is_passing(error: Exception) -> bool:
    """Whether a call to AWS may succeed later: nothing answered, or it throttles or fails."""
    if isinstance(error, ClientError):
        status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status >= 500 or status == 429
    return isinstance(error, (BotoCoreError, OSError))


def fetch(s3: Any, uri: str, sha256: str) -> bytes:  # noqa: ANN401
    """An object, once its digest is found to be the one that was asked for.

    Raises:
        Refused: It is another one.
        Exception: It cannot be read, or S3 did not answer for ten minutes.
    """
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    data: bytes = insist(
        lambda: s3.get_object(Bucket=bucket, Key=key)["Body"].read(),
        patience_seconds=_FETCH_SECONDS,
        may_pass=is_passing,
    )
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        msg = f"{uri} has SHA-256 {found}, and the job names {sha256}: run the task again"
        raise Refused(msg)
    return data


def unpack(s3: Any, wheel: dict[str, str], code: Path) -> Path:  # noqa: ANN401
    """The folder of a wheel's content, which appears only when it is whole."""
    folder = code / wheel["sha256"]
    if not folder.is_dir():
        data = fetch(s3, wheel["uri"], wheel["sha256"])
        draft = code / f".draft-{wheel['sha256']}-{os.getpid()}"
        draft.mkdir(parents=True)
        archive = draft / "archive"
        archive.write_bytes(data)
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(draft / "content")
        try:
            (draft / "content").rename(folder)
        except OSError:
            # A command that was delivered twice has two processes, and the other one was faster.
            if not folder.is_dir():
                raise
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def check_lock(lock: dict[str, str]) -> None:
    """Refuse an image that was made from other versions than those that were tested."""
    path = Path(lock["path"]).expanduser()
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
    if found != lock["sha256"]:
        msg = (
            f"the image was made from another requirements.txt ({path}: {found}; the job needs "
            f"{lock['sha256']}): make an image from this lock, as docs/aws.md says, and name it "
            "as `ami` in LUMOS_CLOUD"
        )
        raise Refused(msg)


def main(argv: list[str]) -> int:  # noqa: RET503 - execve never returns
    """Become the agent, or leave a result that says why not."""
    uri, sha256, region = argv
    os.environ.update(PATIENCE | dict(os.environ))  # the agent and the verb inherit it
    s3 = s3_client(region)
    try:
        job = json.loads(fetch(s3, uri, sha256))
        check_lock(job["lock"])
        home = Path(job["home"]).expanduser()
        folders = [unpack(s3, wheel, home / "code") for wheel in job["wheels"]]
    except (Refused, zipfile.BadZipFile) as error:
        print(f"ERROR {error}", file=sys.stderr)  # noqa: T201 - SSM keeps it
        _refuse(s3, uri, str(error))
        return _BAD_INPUT
    path = home / "jobs" / f"{sha256}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".draft-{path.name}-{os.getpid()}")
    draft.write_text(json.dumps(job))
    draft.replace(path)  # the agent of the same command, delivered twice, may be reading it
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    command = [sys.executable, "-m", "lumos.host.agent", uri, str(path)]
    os.chdir(home)
    os.execve(sys.executable, command, environment)


def _refuse(s3: Any, uri: str, why: str) -> None:  # noqa: ANN401
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    result = {"code": _BAD_INPUT, "cause": "ended", "last_line": "", "last_error": why}
    name = f"{key.rsplit('/', 1)[0]}/{metadata('instance-id')}/result.json"
    body = json.dumps(result).encode()
    insist(
        lambda: s3.put_object(Bucket=bucket, Key=name, Body=body),
        patience_seconds=_FETCH_SECONDS,
        may_pass=is_passing,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
