"""``lumos VERB --recipe NAME --date YYYY-MM-DD``: the one way in, for people and for Airflow.

Logs and progress go to stderr. The last line of stdout is one JSON object, the verb's
:class:`~lumos.verbs.Report`. Exit codes: 0 done or already done, 1 a fault worth a retry,
2 bad input, 3 a gate refused.
"""

import argparse
import contextlib
import datetime as dt
import importlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from lumos.allowed import refuse_unless_allowed, shipped
from lumos.audit import enter
from lumos.claim import claim
from lumos.config import explain
from lumos.dates import parse_date
from lumos.nameless import name_user
from lumos.overrides import assignments, limits_among, override, shown
from lumos.recipes import load
from lumos.schedule import today_in, unfinished
from lumos.settings import Settings
from lumos.stored import store
from lumos.verbs import BAD_INPUT, DONE, FAULT, REFUSED, BadInput, GateRefused, Report, Request

log = logging.getLogger("lumos")

_WHY_CHARACTERS = 300
# Their INFO lines say nothing to whoever reads a task's log.
_TALKATIVE = ("py4j", "great_expectations", "alembic", "mlflow", "matplotlib")


@dataclass(frozen=True)
class Flag:
    """An option of one verb only; ``kind`` is ``bool`` for a switch."""

    name: str
    kind: Callable[[str], Any]
    default: Any
    help: str
    is_repeated: bool = False


@dataclass(frozen=True)
class Verb:
    """Where a verb's function lives; imported only when it is called, for a fast start.

    ``is_shared``: it runs beside others, and holds the lock of the tables together with them.
    """

    function: str
    help: str
    flags: tuple[Flag, ...] = ()
    needs_date: bool = True
    needs_lake: bool = True
    takes_future: bool = False
    is_shared: bool = True


def _whole(least: int, most: int) -> Callable[[str], int]:
    """A flag's whole number, refused with the range that is allowed."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            msg = f"{shown(text)} is not a whole number from {least} to {most}"
            raise argparse.ArgumentTypeError(msg)
        return int(text)

    return number


def _platform(text: str) -> str:
    if text not in ("local", "aws"):
        msg = f"{text!r} is neither local nor aws"
        raise argparse.ArgumentTypeError(msg)
    return text


def _half(text: str) -> str:
    if text not in ("tables", "forecasts"):
        msg = f"{text!r} is neither tables nor forecasts; leave it out for both"
        raise argparse.ArgumentTypeError(msg)
    return text


_DAYS = Flag(
    "days", _whole(1, 5000), None, "how many days, ending with --date (default: the recipe's)"
)
_EXPERIMENT = Flag(
    "experiment", str, None, "its name in the recipe (default: every one that has started)"
)
_REASON = Flag("reason", str, None, "why: kept in the table `audit`")
_USERS = (
    Flag("users-file", str, None, "a file with a user_id on each line; - for stdin"),
    Flag("user", str, None, "a user_id, which others see; again for more", is_repeated=True),
)
_MODEL = Flag("model", str, None, "registry version (default: the champion)")

VERBS: Mapping[str, Verb] = {
    "doctor": Verb(
        "lumos.doctor:doctor",
        "check Java, JARs, the lake, MLflow, the recipe, a port; says how to mend what is wrong",
        (
            Flag(
                "port", _whole(1, 65535), None, "a port that must be free, such as Airflow's 8080"
            ),
            Flag("platform", _platform, None, "local or aws (default: LUMOS_PLATFORM)"),
        ),
        needs_date=False,
        needs_lake=False,  # it says itself what is wrong with the lake, and what else is
    ),
    "land": Verb(
        "lumos.datasets.land:land",
        "write a shipped dataset's raw tables, as a platform would land them day by day",
        (Flag("dataset", str, None, "which (default: the recipe's)"), _DAYS),
        needs_date=False,
    ),
    "aggregate": Verb(
        "lumos.aggregate.daily:aggregate",
        "raw tables -> activity, event_context, users; bad rows -> quarantine",
        (_DAYS, Flag("allow-empty", bool, False, "accept a business date without a raw row")),
    ),
    "sequences": Verb("lumos.aggregate.sequences:sequences", "activity -> one row a user"),
    "validate": Verb("lumos.quality.validate:validate", "the full data-quality suite"),
    "train": Verb("lumos.train.loop:train", "train a challenger (run it under torchrun for DDP)"),
    "evaluate": Verb(
        "lumos.serve.evaluate:evaluate",
        "challenger, champion and baselines on origins after the training period",
        (Flag("model", str, None, "registry version (default: the challenger)"),),
    ),
    "promote": Verb(
        "lumos.serve.registry:promote",
        "make the challenger champion, or refuse (exit 3)",
        (_REASON,),
    ),
    "rollback": Verb(
        "lumos.serve.registry:rollback", "make the previous champion champion again", (_REASON,)
    ),
    "resolve": Verb(
        "lumos.serve.registry:resolve", "say which versions a run is to use, once", (_MODEL,)
    ),
    "shadow": Verb(
        "lumos.serve.shadow:shadow", "forecast with the challenger too, for nobody but `promote`"
    ),
    "score": Verb(
        "lumos.serve.score:score",
        "forecast the days after --date",
        (
            _MODEL,
            Flag("what-if", str, None, "CSV of a calendar to compare with the known one"),
        ),
    ),
    "publish": Verb("lumos.serve.publish:publish", "calibrate, gate and publish scores"),
    "retract": Verb(
        "lumos.serve.retract:retract",
        "take back what was published for --date; readers get the previous publication",
        (
            _REASON,
            Flag("version", _whole(0, 10**9 - 1), None, "which (default: the date's newest)"),
        ),
        takes_future=True,  # a clock that was wrong may have published one
    ),
    "export": Verb(
        "lumos.serve.export:export",
        "hand published scores to the recipe's stores: Redis, DynamoDB, Parquet",
        (Flag("store", str, None, "its name in publishing.stores (default: all)"),),
    ),
    "embed": Verb(
        "lumos.serve.embed:embed", "users and days as vectors, cohorts, sudden changes", (_MODEL,)
    ),
    "similar": Verb(
        "lumos.serve.similar:similar",
        "who, or which day, is nearest by the newest embeddings up to --date",
        (
            Flag("kind", str, "user", "user, static (also who did nothing yet) or day"),
            Flag("id", str, None, "a user_id, or a day as YYYY-MM-DD"),
            Flag("k", _whole(1, 1000), 10, "how many neighbours"),
        ),
        needs_date=False,
    ),
    "assign": Verb(
        "lumos.experiment.assignment:assign", "assign users to variants", (_EXPERIMENT,)
    ),
    "measure": Verb(
        "lumos.experiment.measure:measure", "outcomes and effects of an experiment", (_EXPERIMENT,)
    ),
    "power": Verb(
        "lumos.experiment.power:power",
        "what an experiment as declared would find, by replays on the users of the last days",
        (
            Flag("experiment", str, None, "its name in the recipe"),
            Flag("replays", _whole(50, 100_000), 500, "experiments a relative effect"),
            Flag(
                "effects",
                str,
                None,
                "relative effects, such as 0.01,0.02 (default: the declared "
                "minimum_effect, half and twice of it)",
            ),
        ),
    ),
    "replay": Verb(
        "lumos.experiment.replay:replay",
        "A/A: do the declared analyses find in users whom nobody treated what they may (exit 3)",
        (
            Flag("experiment", str, None, "its name in the recipe (default: every one declared)"),
            Flag("replays", _whole(200, 100_000), 2000, "splits an experiment"),
        ),
    ),
    "monitor": Verb(
        "lumos.study.monitor_page:monitor",
        "is the date unusual? freshness, volume, schema, drift, matured forecasts (or exit 3)",
        (Flag("of", _half, None, "tables or forecasts (default: both)"),),
    ),
    "erase": Verb(
        "lumos.erase.run:erase",
        "take users out of tables, their history, pages and stores; a scan of all files proves it",
        (
            *_USERS,
            Flag("all-recipes", bool, False, "the same ids in every recipe of the lake"),
            Flag("dry-run", bool, False, "say what there is of them, and change nothing"),
            _REASON,
        ),
        needs_date=False,
        is_shared=False,
    ),
    "export-user": Verb(
        "lumos.erase.export:export_user",
        "everything that is kept of users, as JSON lines: the right of access",
        (*_USERS, Flag("to", str, None, "a new folder for it (default: below LUMOS_HOME)")),
        needs_date=False,
    ),
    "maintain": Verb(
        "lumos.maintain.run:maintain",
        "remove what is past the recipe's retention; compact, vacuum and clean up every table",
        (Flag("dry-run", bool, False, "say what there is to remove, and change nothing"),),
        needs_date=False,
    ),
    "review": Verb(
        "lumos.study.experiment_page:review",
        "an HTML page an experiment, or an alarm that says where it is (exit 3)",
        (_EXPERIMENT,),
    ),
    "report": Verb("lumos.study.report:report", "an HTML report of one business date"),
}


def parser() -> argparse.ArgumentParser:
    """The command line, built from :data:`VERBS`."""
    root = argparse.ArgumentParser(prog="lumos", description=__doc__.split("\n")[0])
    verbs = root.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        sub = verbs.add_parser(name, help=verb.help, description=verb.help)
        sub.add_argument("--recipe", help=f"{', '.join(shipped())}, or package.module:function")
        sub.add_argument("--date", help="business date: the last day observed, YYYY-MM-DD")
        sub.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE")
        sub.add_argument("--force", action="store_true", help="do it again even if it was done")
        for flag in verb.flags:
            if flag.kind is bool:
                sub.add_argument(f"--{flag.name}", action="store_true", help=flag.help)
            else:
                sub.add_argument(
                    f"--{flag.name}",
                    type=flag.kind,
                    default=flag.default,
                    help=flag.help,
                    action="append" if flag.is_repeated else "store",
                )
    return root


def request_from(arguments: argparse.Namespace, now: dt.datetime) -> Request:
    """Turn parsed arguments into a checked request.

    Raises:
        BadInput: An unknown recipe or field; a malformed or missing date, or one that is not over
            in the recipe's time zone.
    """
    verb = VERBS[arguments.verb]
    try:
        settings = Settings.from_environment()
        name = arguments.recipe or settings.recipe
        if settings.allowed_recipes is not None:
            refuse_unless_allowed(name, settings)
        recipe = override(load(name), assignments(arguments.set))
        if arguments.date is None and verb.needs_date:
            msg = f"lumos {arguments.verb} needs --date YYYY-MM-DD, the last day observed"
            raise ValueError(msg)
        today = today_in(recipe.timezone, now)
        last = dt.date.max if verb.takes_future else today
        date = today if arguments.date is None else parse_date(arguments.date, today=last)
        trouble = unfinished(date, recipe.timezone, now) if verb.needs_date else ""
        if trouble and not verb.takes_future:
            raise ValueError(trouble)
    except ValidationError as error:
        raise BadInput(explain(error)) from error
    except ValueError as error:
        raise BadInput(str(error)) from error
    if verb.needs_lake:
        trouble = settings.trouble_writing()
        if trouble:
            raise BadInput(trouble)
    names = [flag.name.replace("-", "_") for flag in verb.flags]
    return Request(
        verb=arguments.verb,
        recipe=recipe,
        date=date,
        settings=settings,
        options={name: getattr(arguments, name) for name in names},
        force=arguments.force,
    )


def run(request: Request) -> Report:
    """Call the verb's function and stamp how long it took."""
    verb = VERBS[request.verb]
    module, function = verb.function.split(":")
    started = time.monotonic()
    with _lock(request) if verb.is_shared and verb.needs_lake else contextlib.nullcontext():
        report: Report = getattr(importlib.import_module(module), function)(request)
    seconds = round(time.monotonic() - started, 2)
    return Report.model_validate({**report.model_dump(), "seconds": seconds})


def _lock(request: Request) -> contextlib.AbstractContextManager[None]:
    from lumos.lock import shared  # what it imports takes longer than most answers about arguments

    # The ranks of torchrun are one verb.
    return shared(request) if os.environ.get("RANK", "0") == "0" else contextlib.nullcontext()


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Keep stdout for the report: libraries, and the JVM that they start, print there too."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. Only rank 0 speaks under torchrun."""
    is_first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if is_first else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    for library in _TALKATIVE:
        logging.getLogger(library).setLevel(logging.WARNING)
    arguments = parser().parse_args(argv)
    try:
        with _stdout_to_stderr():
            request = request_from(arguments, dt.datetime.now(dt.UTC))
            name_user(request.settings.home)
            if is_first and VERBS[request.verb].needs_lake:
                claim(request.settings, request.recipe)
                name = arguments.recipe or request.settings.recipe
                store(request.settings, name, load(name))
                for limit, value in limits_among(arguments.set).items():
                    enter(request, f"limit {limit}={value} for {request.date}", "an override")
            report = run(request)
    except BadInput as error:
        log.error("%s", error)
        return BAD_INPUT
    except GateRefused as error:
        log.error("refused: %s", error)
        return REFUSED
    except Exception as error:
        # The line that an alert carries: whoever is paged should not have to open the log.
        why = f"{type(error).__name__}: {error}".splitlines()[0][:_WHY_CHARACTERS]
        log.exception("lumos %s failed (%s); a retry may help", arguments.verb, why)
        return FAULT
    if is_first:
        sys.stdout.write(report.model_dump_json() + "\n")
        sys.stdout.flush()
    return DONE


if __name__ == "__main__":
    sys.exit(main())
