# ruff: noqa: T201 - what it prints is what it is for
"""A stand-in for ``python -m lumos VERB``, to try what a verb may do to its machine.

It takes the place of ``lumos/__main__.py`` in a wheel; the agent beside it is the real one. What
it does comes by an option of its own: ``--do=WHAT``. No part of LUMOS: real processes, odd manners.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import boto3


def report(**more: object) -> int:
    verb, *rest = sys.argv[1:]
    date = next(word.split("=", 1)[1] for word in rest if word.startswith("--date="))
    print("a stray line")
    print(json.dumps({"verb": verb, "date": date, "tables": [], "argv": sys.argv[1:], **more}))
    return 0


def is_there(bucket: str, key: str) -> bool:
    """Whether a machine before this one has saved its state."""
    return boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{key}/state")["KeyCount"] > 0


def job(home: Path) -> int:
    """Work without S3 until the file `finish` is there; leave the file `asked` if told to save."""

    def leave(*_: object) -> None:
        (home / "asked").touch()
        sys.exit(75)

    signal.signal(signal.SIGTERM, leave)
    (home / "working").touch()
    while not (home / "finish").exists():
        time.sleep(0.02)
    return report()


def main() -> int:  # noqa: C901 - one thing after the other
    """Do what is asked."""
    words = [word.removeprefix("--do=") for word in sys.argv if word.startswith("--do=")]
    what, *rest = (words or ["report"])[-1].split(":")
    is_first = os.environ.get("RANK", "0") == "0"
    bucket, key = os.environ["LUMOS_STATES"].removeprefix("s3://").split("/", 1)
    print(f"12:00:00 INFO stand-in: {what}", file=sys.stderr, flush=True)
    if what == "job":
        return job(Path(os.environ["LUMOS_HOME"]))
    if what == "exit":
        print("12:00:00 ERROR lumos: the sentence for people", file=sys.stderr)
        return int(rest[0])
    if what == "lines":
        for number in range(int(rest[0])):
            print(f"12:00:00 INFO stand-in: line {number}", file=sys.stderr)
    if what == "chatter":
        print("not JSON at all")
        return 0
    if what == "environment":
        return report(environment=dict(os.environ))
    if what == "work" and not is_there(bucket, key):  # until told to save, or for ever
        stopped: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
        print("12:00:00 WARNING stand-in: working", file=sys.stderr, flush=True)
        while not stopped:
            time.sleep(0.02)
        if is_first:
            boto3.client("s3").put_object(Bucket=bucket, Key=f"{key}/state", Body=b"saved")
        return 75
    if what == "hang":
        time.sleep(600)
    return (
        report(rank=os.environ.get("RANK"), ranks=os.environ.get("WORLD_SIZE")) if is_first else 0
    )


if __name__ == "__main__":
    sys.exit(main())
