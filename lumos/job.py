"""One verb as a Databricks ``python_wheel_task``: the entry point ``lumos-job``.

Databricks calls the function and ignores what it returns, so an exit code that is only returned
would be a success. Its parameters may hold references such as ``{{job.id}}``, which it replaces,
and serverless compute takes no environment variables. So everything comes as one parameter (see
:func:`pack`), and everything goes as one line of stdout, which is the last: Databricks keeps the
last 5 MB of a run's output. A verb that failed raises as well, with the same line.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field, ValidationError

from lumos import compute
from lumos.frozen import Config

MARK = "LUMOS-ENDED"
_MOST_ERROR = 2000  # characters: enough for a sentence, and an error message is cut somewhere


class Job(Config):
    """What to run.

    Attributes:
        arguments: What follows ``lumos`` on the command line.
        environment: Variables to set before; a cluster gets its own from its specification.
    """

    arguments: tuple[str, ...] = Field(min_length=1)
    environment: Mapping[str, str] = Field(default_factory=dict)


class End(Config):
    """How a verb ended.

    Attributes:
        job: Digest of the arguments, so that no other verb's end is taken for this one's.
        code: The verb's exit code.
        last_line: Of its stdout: the report.
        last_error: The last ERROR line of its log.
    """

    job: str
    code: int
    last_line: str
    last_error: str


class VerbFailed(RuntimeError):
    """Makes its run fail; not SystemExit, which notebooks treat in a way of their own."""


class _LastError(logging.Handler):
    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()[:_MOST_ERROR]


def pack(job: Job) -> str:
    """The one parameter of a task: ASCII, and without a ``{{`` that Databricks would replace."""
    text = json.dumps({"arguments": job.arguments, "environment": dict(job.environment)})
    return text.replace("{{", "{\\u007b")


def digest(arguments: Iterable[str]) -> str:
    """Of a verb's arguments; see :attr:`End.job`."""
    return hashlib.sha256(json.dumps(list(arguments)).encode()).hexdigest()


def find_end(text: str, arguments: Sequence[str]) -> End | None:
    """The end of the verb with these arguments, in the output or in the error of its run."""
    for line in reversed(text.splitlines()):
        _, mark, found = line.partition(MARK)
        if not mark:
            continue
        with contextlib.suppress(ValidationError, ValueError):
            end = End.model_validate(json.JSONDecoder().raw_decode(found.strip())[0])
            if end.job == digest(arguments):
                return end
    return None


def run(job: Job) -> End:
    """Run the verb in this process."""
    from lumos.cli import main as lumos  # after the variables are set

    # Whoever started this process has set up logging in a way of its own, which hides INFO.
    logging.getLogger().handlers.clear()
    last_error, stdout = _LastError(logging.ERROR), io.StringIO()
    ours = logging.getLogger("lumos")
    ours.addHandler(last_error)
    try:
        with contextlib.redirect_stdout(stdout):
            code = lumos(job.arguments)
    except SystemExit as left:  # argparse
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    finally:
        ours.removeHandler(last_error)
    lines = [line for line in stdout.getvalue().splitlines() if line.strip()]
    return End(
        job=digest(job.arguments),
        code=code,
        last_line=lines[-1] if lines else "",
        last_error=last_error.text,
    )


def main() -> None:
    """Entry point of the wheel.

    Raises:
        VerbFailed: The verb ended with another code than 0.
    """
    job = Job.model_validate_json(sys.argv[1])
    os.environ.update(job.environment)
    compute.set_up()
    end = run(job)
    line = f"{MARK} {json.dumps(end.model_dump())}"
    sys.stdout.write(f"\n{line}\n")
    sys.stdout.flush()
    if end.code:
        raise VerbFailed(line)
