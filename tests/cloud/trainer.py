# ruff: noqa: T201 - what it prints is what it is for
"""A quick ``lumos.cli``: it "trains" by counting steps, and keeps a diary of its states.

It takes the place of the real one in a wheel, for the runs in which everything around a training
goes wrong: a real training takes a minute, and what is tried is that no step of it is lost. The
diary (one line a state saved, or begun from) and the state lie in ``LUMOS_STATES``.
"""

import json
import logging
import os
import signal
import sys
import time

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from lumos.host.folder import Folder

STEPS, STATE_EVERY, STEP_SECONDS = 40, 8, 0.05
DIARY, STATE = "diary", "state"

log = logging.getLogger("lumos")


class Trainer:
    """Counts to ``STEPS``; saves now and then, and when it is asked to leave."""

    def __init__(self, date: str) -> None:
        states = Folder(boto3.client("s3"), os.environ["LUMOS_STATES"])
        self.folder = states.of(f"trainer/{date}")
        self.is_first = os.environ.get("RANK", "0") == "0"
        found = self.folder.read(STATE)
        self.step = int(found.data) if found else 0
        self.is_asked = False

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._ask)
        self._note("began")
        while self.step < STEPS:
            time.sleep(STEP_SECONDS)
            self.step += 1
            if self.step % STATE_EVERY == 0 or self.is_asked:
                self._save()
            if self.is_asked:
                log.warning("saved, and leaving at step %d", self.step)
                return 75
        self._note("finished")
        return 0

    def _ask(self, *_: object) -> None:
        self.is_asked = True

    def _save(self) -> None:
        if not self.is_first:
            return
        for attempt in range(8):
            try:
                self.folder.write(STATE, str(self.step).encode())
                break
            except (ClientError, BotoCoreError):
                if attempt == 7:
                    raise
                time.sleep(0.2)
        self._note("saved")

    def _note(self, what: str) -> None:
        if self.is_first:
            name = f"{DIARY}/{time.time_ns():020d}"
            for _ in range(20):
                try:
                    self.folder.write(name, f"{what} {self.step}".encode())
                    break
                except (ClientError, BotoCoreError):
                    time.sleep(0.2)


def main(argv: list[str] | None = None) -> int:
    """Like the real one: the report on stdout, the exit code returned."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s lumos: %(message)s"
    )
    given = dict(text[2:].split("=", 1) for text in arguments[1:] if "=" in text)
    log.info("%s begins", arguments[0])
    steps = 0
    if arguments[0] == "train":
        trainer = Trainer(given["date"])
        if code := trainer.run():
            return code
        steps = trainer.step
        if not trainer.is_first:
            return 0
    report = {"verb": arguments[0], "recipe": given["recipe"], "date": given["date"]}
    print(json.dumps({**report, "tables": [], "steps": steps}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
