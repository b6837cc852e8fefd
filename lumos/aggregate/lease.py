"""Use a Java process of the pool (:mod:`lumos.aggregate.jvms`) for one Spark session.

If the pool cannot help (none runs, all are lent, it does not answer), PySpark starts a Java
process of its own for the verb, as it does without a pool.
"""

import json
import logging
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyspark
from py4j.java_gateway import JavaObject
from pyspark import SparkContext
from pyspark.java_gateway import launch_gateway

from lumos.aggregate.jvms import WELL, Wanted
from lumos.sockets import connected

# Set when Java starts and fixed from then on; all others are those of each verb's own context.
_FIXED_AT_START = (
    "spark.driver.memory",
    "spark.driver.extraJavaOptions",
    "spark.driver.extraClassPath",
)
# What Java, Spark, Hadoop or the AWS SDK in Java read: a process has exactly its verb's.
_REACHES_JAVA = re.compile(
    r"(SPARK|PYSPARK|HADOOP|AWS|JAVA|JDK|LC)_.*|_JAVA_OPTIONS|PATH|HOME|USER|LANG|TZ|TMPDIR"
)
# Longer than the pool itself waits for Java to start.
_PATIENCE_SECONDS = 150
# What Py4J itself keeps for Python, beside the objects of a verb.
_PY4J_OWN = ("GATEWAY_SERVER", "j")

log = logging.getLogger(__name__)


@contextmanager
def leased_java(folder: Path | None, settings: Mapping[str, str]) -> Iterator[None]:
    """Let the session that starts and stops inside run in a warm Java process, if there is one.

    Args:
        folder: The pool's; ``None`` if none is to be asked.
        settings: The session's.
    """
    has_java = SparkContext._gateway is not None or "PYSPARK_GATEWAY_PORT" in os.environ
    # Without prepared JARs Ivy fetches Delta into the process that asks for it.
    lease = None
    if folder is not None and not has_java and "spark.driver.extraClassPath" in settings:
        lease = _ask(folder, _wanted(settings))
    if lease is None:
        yield
        return
    connection, java = lease
    with connection:
        _connect(java)
        try:
            yield
        except BaseException:
            # Out of memory, a query that still runs: no next verb shall find out.
            _disconnect()
            raise
        _forget_objects()
        _disconnect()
        connection.sendall(WELL)


def _wanted(settings: Mapping[str, str]) -> Wanted:
    submit = Path(os.environ.get("SPARK_HOME") or Path(pyspark.__file__).parent) / "bin"
    command = [str(submit / "spark-submit")]
    for key in _FIXED_AT_START:
        command += ["--conf", f"{key}={settings[key]}"]
    environment = {
        name: value for name, value in os.environ.items() if _REACHES_JAVA.fullmatch(name)
    }
    return Wanted.of([*command, "pyspark-shell"], environment)


def _ask(folder: Path, wanted: Wanted) -> tuple[socket.socket, dict[str, Any]] | None:
    try:
        connection = connected(folder, patience_seconds=_PATIENCE_SECONDS)
    except OSError as error:
        log.info("no warm Java process (%s); starting one", error)
        return None
    try:
        connection.sendall(wanted.as_json())
        with connection.makefile() as answers:
            java = json.loads(answers.readline() or "null")
    except OSError as error:
        log.info("no warm Java process (%s); starting one", error)
        java = None
    if java is None:
        connection.close()
        return None
    return connection, java


def _connect(java: Mapping[str, Any]) -> None:
    """As PySpark does for a Java process that it did not start, which it knows by these two."""
    told = {"PYSPARK_GATEWAY_PORT": str(java["port"]), "PYSPARK_GATEWAY_SECRET": java["secret"]}
    os.environ.update(told)
    try:
        SparkContext._gateway = launch_gateway()  # type: ignore[no-untyped-call]
    finally:
        for name in told:
            del os.environ[name]
    SparkContext._jvm = SparkContext._gateway.jvm


def _forget_objects() -> None:
    """Let Java free what this process held: it learns of dropped objects one by one, or never."""
    gateway = SparkContext._gateway
    assert gateway is not None
    assert gateway.jvm is not None
    server = JavaObject("GATEWAY_SERVER", gateway._gateway_client)
    own = gateway.jvm.java.util.ArrayList()
    for name in _PY4J_OWN:
        own.add(name)
    server.getGateway().getBindings().keySet().retainAll(own)
    gateway.jvm.System.gc()  # gives memory back


def _disconnect() -> None:
    gateway = SparkContext._gateway
    assert gateway is not None
    gateway.close()
    SparkContext._gateway = SparkContext._jvm = None
