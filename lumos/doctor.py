"""The verb ``doctor``: is this machine fit to run LUMOS, and if not, what to do about it.

Each check looks and touches nothing; all of them run, so that one visit names every remedy.
Heavy libraries stay unloaded: a doctor who takes a minute is not asked.
"""

import datetime as dt
import os
import platform
import pwd
import shutil
import socket
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from rich.console import Console
from rich.table import Table

from lumos.addresses import refuse_unencoded, without_password
from lumos.config import Recipe
from lumos.finding import Finding
from lumos.nameless import is_nameless, stand_in
from lumos.schedule import Schedule, is_declared, today_in
from lumos.settings import Settings
from lumos.verbs import BadInput, Report, Request

_PYTHON = (3, 11)
_LEAST_FREE_GIB = 5
_ANSWER_SECONDS = 1.5
_USUAL_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}


def doctor(request: Request) -> Report:
    """Check this machine, print a table to stderr, and name every remedy.

    Raises:
        BadInput: Something is wrong; its message holds all remedies.
    """
    findings = examine(request)
    _print(findings)
    wrong = [finding for finding in findings if not finding.ok]
    if wrong:
        count = f"{len(wrong)} of {len(findings)} checks failed"
        remedies = "; ".join(f"{each.check}: {each.seen}. {each.remedy}" for each in wrong)
        raise BadInput(f"{count}. {remedies}")
    return request.report(
        metrics={"num_checks": len(findings)},
        details={each.check: {"ok": each.ok, "seen": each.seen} for each in findings},
    )


def examine(request: Request) -> list[Finding]:
    """Run every check of the platform: on AWS, Spark's Java and JARs are not this machine's."""
    settings, port = request.settings, request.options["port"]
    platform_name = request.options.get("platform") or settings.platform
    findings = [
        check_python(sys.version_info[:2]),
        check_user(),
        check_lake(settings),
        check_disk(settings),
        check_mlflow(settings),
        check_recipe(request),
        check_schedule(request.recipe, today_in(request.recipe.timezone, dt.datetime.now(dt.UTC))),
        Finding("platform", f"LUMOS_PLATFORM={settings.platform}"),
    ]
    if platform_name == "aws":
        from lumos.cloudcheck.deployment import examine_aws

        findings += examine_aws(settings)
    else:
        findings[1:1] = [check_java(), check_jars(settings), *check_s3_jars(settings)]
    return [*findings, check_port(port)] if port else findings


def check_python(found: tuple[int, int]) -> Finding:
    """The lock is made for one version of Python."""
    seen = platform.python_version()
    wanted = ".".join(map(str, _PYTHON))
    fine = found == _PYTHON
    return Finding("python", seen, "" if fine else f"Run it with Python {wanted} (make setup)")


def check_user() -> Finding:
    """Who this is; a container's own id has no name, and Java and Hadoop are told one."""
    if not is_nameless():
        return Finding("user", pwd.getpwuid(os.getuid()).pw_name)
    return Finding("user", f"id {os.getuid()} has no name; {stand_in()} is used")


def check_java() -> Finding:
    """Spark's Java, by the very check that Spark's start makes."""
    from lumos.aggregate.spark import find_java

    try:
        return Finding("java", find_java())
    except BadInput as error:
        return Finding("java", "not fit", str(error))


def check_jars(settings: Settings) -> Finding:
    """Delta's JARs; without them every job asks the network."""
    from lumos.aggregate.spark import prepared_jars

    folder = settings.home / "spark"
    jars = prepared_jars(folder)
    remedy = "" if jars else "Prepare them once: python -m lumos.aggregate.prepare"
    return Finding("jars", f"{len(jars)} in {folder}", remedy)


def check_s3_jars(settings: Settings) -> list[Finding]:
    """What Spark needs for a lake on S3; nothing to check for another one."""
    from lumos.aggregate.spark import is_on_s3, s3_jars, trouble_on_s3

    if not is_on_s3(settings.lake):
        return []
    folder = settings.home / "spark"
    return [Finding("jars for S3", f"{len(s3_jars(folder))} in {folder}", trouble_on_s3(settings))]


def check_lake(settings: Settings) -> Finding:
    """A lake that can be written."""
    return Finding("lake", settings.lake, settings.trouble_writing())


def check_disk(settings: Settings) -> Finding:
    """Room for a demo and its tests."""
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    remedy = f"Free at least {_LEAST_FREE_GIB} GiB there, or set LUMOS_HOME to another disk"
    return Finding("disk", f"{free:.1f} GiB free", "" if free >= _LEAST_FREE_GIB else remedy)


def check_mlflow(settings: Settings) -> Finding:
    """A tracking store that answers."""
    uri = settings.mlflow_uri
    try:
        refuse_unencoded("MLFLOW_TRACKING_URI", uri)
    except BadInput as error:
        return Finding("mlflow", "not a URL", str(error))
    parts = urlsplit(uri)
    remedy = (
        "Start it (`make up` starts the local one), or set MLFLOW_TRACKING_URI to one that answers"
    )
    try:
        if parts.scheme == "sqlite":
            _open_sqlite(Path(uri.removeprefix("sqlite:///")))
        elif (folder := parse_qs(parts.query).get("host", [""])[0]).startswith("/"):
            with socket.socket(socket.AF_UNIX) as server:
                server.settimeout(_ANSWER_SECONDS)
                server.connect(f"{folder}/.s.PGSQL.{parts.port or 5432}")
        elif parts.hostname and (port := parts.port or _USUAL_PORTS.get(parts.scheme)):
            socket.create_connection((parts.hostname, port), _ANSWER_SECONDS).close()
        else:
            return Finding("mlflow", f"{without_password(uri)} (seen by its first use only)")
    except (OSError, sqlite3.Error) as error:
        return Finding("mlflow", f"{without_password(uri)} does not answer: {error}", remedy)
    return Finding("mlflow", without_password(uri))


def check_recipe(request: Request) -> Finding:
    """The recipe has loaded, or there would be no request; are its SELECTs there?"""
    recipe = request.recipe
    folder = request.settings.sql_root / recipe.sql_folder
    names = ["activity", "static", *(["event_context"] if recipe.events else [])]
    missing = [f"{name}.sql" for name in names if not (folder / f"{name}.sql").is_file()]
    seen = f"{recipe.name}, SELECTs in {folder}"
    remedy = f"Write {', '.join(missing)} there, or correct `sql` of the recipe or LUMOS_SQL"
    return Finding("recipe", seen, remedy if missing else "")


def check_schedule(
    recipe: Recipe, first: dt.date, environment: Mapping[str, str] | None = None
) -> Finding:
    """Runs that start when the recipe's days are over, and scores that last until the next."""
    try:
        schedule = Schedule.from_environment(environment)
    except ValueError as error:
        return Finding("schedule", "a variable is wrong", str(error))
    zones = f"LUMOS_TIMEZONE {schedule.zone}, recipe {recipe.timezone}"
    if not schedule.is_automatic:
        return Finding("schedule", f"off ({zones})")
    wrong = schedule.conflicts(first, recipe.timezone, recipe.publishing.valid_days)
    if wrong and not is_declared(environment):
        return Finding("schedule", f"none declared; for Airflow: {'; '.join(wrong)}")
    return Finding(
        "schedule", f"{schedule.start_hours:g} h after midnight ({zones})", "; ".join(wrong)
    )


def check_port(port: int) -> Finding:
    """A port that a server can take."""
    with socket.socket() as probe:
        # As servers do: a port whose last connection is still winding up counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            remedy = (
                f"Stop what uses it (`ss -ltnp 'sport = :{port}'` shows it), or choose another port"
            )
            return Finding("port", f"{port} cannot be taken ({error.strerror})", remedy)
    return Finding("port", f"{port} is free")


def _open_sqlite(path: Path) -> None:
    """Read a store that exists; one that does not is made by its first use, if it can be."""
    if path.exists():
        with sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True) as store:
            store.execute("SELECT count(*) FROM sqlite_master").fetchone()
        store.close()
        return
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, so {path} cannot be made")


def _print(findings: list[Finding]) -> None:
    table = Table("", "check", "seen", "remedy")
    for each in findings:
        table.add_row("ok" if each.ok else "FAILED", each.check, each.seen, each.remedy)
    Console(stderr=True, width=None if sys.stderr.isatty() else 200).print(table)
