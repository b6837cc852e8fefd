"""What Databricks is asked to run for a verb, and what the end of that run means. All pure."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lumos.cloud import Cloud, Databricks
from lumos.job import End, Job, pack
from lumos_airflow.hooks.databricks import Run

PACKAGE, ENTRY_POINT = "lumos", "lumos-job"
_ENVIRONMENT_KEY = "lumos"
_MOST_ERROR = 1000

# done: the verb ended, and said how; ours: a person must change something; theirs: a repair may
# help; fault: another run may.
Verdict = Literal["done", "ours", "theirs", "fault"]

_THEIR_KINDS = {"INTERNAL_ERROR", "CLOUD_FAILURE"}
_THEIR_CODES = {"INTERNAL_ERROR", "DRIVER_ERROR", "CLUSTER_ERROR", "CLOUD_FAILURE"}
_REMEDIES = {
    "INVALID_CLUSTER_REQUEST": "correct databricks.cluster (or .small) in LUMOS_CLOUD",
    "INVALID_RUN_CONFIGURATION": "correct [databricks] in LUMOS_CLOUD",
    "FEATURE_DISABLED": "enable it, or choose other compute under [databricks] in LUMOS_CLOUD",
    "UNAUTHORIZED_ERROR": "give the connection's user the right to it",
    "RESOURCE_NOT_FOUND": "correct what [databricks] in LUMOS_CLOUD names",
    "LIBRARY_INSTALLATION_ERROR": (
        "let the cluster read the bucket (aws_attributes.instance_profile_arn of "
        "databricks.cluster in LUMOS_CLOUD), and see that the wheels fit its Python"
    ),
}


def is_serverless(databricks: Databricks, *, needs_spark: bool) -> bool:
    """Whether a verb gets no cluster of its own."""
    return databricks.cluster is None and (needs_spark or databricks.small is None)


def token(key: str, attempt: int) -> str:
    """Idempotency token of one attempt at a job; Databricks takes 64 characters at most."""
    return hashlib.sha256(f"{key}-{attempt}".encode()).hexdigest()


def submission(
    cloud: Cloud,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    wheels: Sequence[str],
    needs_spark: bool,
) -> dict[str, Any]:
    """The body of ``runs/submit`` but for what names the run: one wheel task and its compute."""
    databricks, verb = cloud.databricks, arguments[0]
    on_serverless = is_serverless(databricks, needs_spark=needs_spark)
    # A cluster's variables reach its executors as well; serverless compute takes none.
    job = Job(arguments=tuple(arguments), environment=environment if on_serverless else {})
    task: dict[str, Any] = {
        "task_key": verb,
        "python_wheel_task": {
            "package_name": PACKAGE,
            "entry_point": ENTRY_POINT,
            "parameters": [pack(job)],
        },
    }
    if on_serverless:
        given = dict(databricks.environment or {})
        given["dependencies"] = [*given.get("dependencies", ()), *wheels]
        environments = [{"environment_key": _ENVIRONMENT_KEY, "spec": given}]
        return {
            "tasks": [{**task, "environment_key": _ENVIRONMENT_KEY}],
            "environments": environments,
        }
    chosen = databricks.cluster if needs_spark else databricks.small or databricks.cluster
    cluster = dict(chosen or {})
    cluster["spark_env_vars"] = {**cluster.get("spark_env_vars", {}), **environment}
    libraries = [{"whl": uri} for uri in wheels]
    return {"tasks": [{**task, "new_cluster": cluster, "libraries": libraries}]}


def judge(run: Run, end: End | None) -> Verdict:
    """What a run that is over means.

    Args:
        run: Over.
        end: What the verb itself said, if it came to say something.
    """
    if end is not None and end.code:
        return "done"
    if run.result == "SUCCESS":
        return "done"
    if run.result in ("CANCELED", "TIMEDOUT"):
        return "fault"
    # Before the remedies: a cloud's failure may come as any code.
    if run.kind in _THEIR_KINDS or run.code in _THEIR_CODES:
        return "theirs"
    return "ours" if run.code in _REMEDIES else "fault"


def sentence(run: Run, verb: str, error: str) -> str:
    """Why there is no end of the verb, and what to do about it; ``error`` is of its output."""
    words = "; ".join(each.strip() for each in (run.message, error[:_MOST_ERROR]) if each.strip())
    said = f": {words}" if words else ""
    told = f"run {run.run_id} of lumos {verb} on Databricks"
    if run.result == "CANCELED":
        return f"{told} was cancelled there{said}. To stop it for good, mark the task failed"
    if run.code in _REMEDIES:
        return f"{told} could not start ({run.code}){said}. {_REMEDIES[run.code]}"
    how = " ".join(word for word in (run.result or run.life, run.code) if word)
    return f"{told} ended without a word of the verb ({how}){said}"
