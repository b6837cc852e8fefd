"""A quick ``lumos.cli`` for the stand-in wheel: does what ``--does`` asks for.

That is a JSON list of ``KEY=VALUE``: ``code`` is the exit code; ``error`` is logged; ``seconds``
are slept after the file ``started`` was written with the process id. ``first_code`` and
``first_seconds`` are those of the first run alone, which the file ``memory`` remembers.
"""

import json
import logging
import os
import sys
import time
from pathlib import Path

log = logging.getLogger("lumos")


def main(argv: list[str] | None = None) -> int:
    """Like the real one: the report on stdout, the exit code returned."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s: %(message)s")
    log.info("the stand-in of lumos %s starts", arguments[0])
    asked = [text.removeprefix("--does=") for text in arguments if text.startswith("--does=")]
    given = dict(text.split("=", 1) for each in asked for text in json.loads(each))
    if "started" in given:
        Path(given["started"]).write_text(str(os.getpid()))
    if "memory" in given and not Path(given["memory"]).exists():
        Path(given["memory"]).touch()
        given |= {name[6:]: value for name, value in given.items() if name.startswith("first_")}
    time.sleep(float(given.get("seconds", 0)))
    code = int(given.get("code", 0))
    if code:
        log.error("%s", given.get("error", "it did not work"))
        return code
    named = dict(text[2:].split("=", 1) for text in arguments if "=" in text)
    kept = {
        name: value for name, value in os.environ.items() if name.startswith(("LUMOS", "MLFLOW"))
    }
    report = {"verb": arguments[0], "recipe": named["recipe"], "date": named["date"]}
    details = {"arguments": arguments, "environment": kept}
    sys.stdout.write(json.dumps({**report, "tables": [], "details": details}) + "\n")
    return code


def returns() -> int:
    """An entry point as many are: its code is only returned."""
    return 2
