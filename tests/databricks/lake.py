"""Minilake with the parts of the Jobs API that a verb's run needs: ``python lake.py PORT``.

Minilake has no repairs, its cancelled runs go on, and it accepts any compute. Run by its own
interpreter. Quotes are the API reference's; "differs" says where this is not as Databricks is.

Environment: ``LAKE_PYTHON`` runs the tasks, guarded by the file ``LAKE_GUARD``. Faults are planned
by ``POST /test/faults``: ``{"path", "status", "times"}`` are answers of the API, ``{"run",
"times"}`` are failures of runs (see ``lake_tasks``).
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from typing import Any

import lake_tasks as tasks
import uvicorn
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from minilake import app as minilake_app
from minilake.models.jobs import CancelRunRequest, SubmitRunRequest
from minilake.services import jobs

_ENDS = {"TERMINATED", "SKIPPED", "INTERNAL_ERROR"}
_CODES = {
    400: ("INVALID_PARAMETER_VALUE", "This request is not allowed."),
    401: ("UNAUTHENTICATED", "Request to get token failed."),
    403: ("PERMISSION_DENIED", "You are not authorized to create clusters."),
    429: ("REQUEST_LIMIT_EXCEEDED", "Your rate limit is exceeded."),
    503: ("TEMPORARILY_UNAVAILABLE", "The service is temporarily unavailable."),
}

router = APIRouter()
_running: set[asyncio.Task] = set()
_looks: Counter[str] = Counter()
_minilake_execute = jobs._execute_run


async def _execute_run(run_id: int, argv: list[str]) -> None:
    """Minilake's, and afterwards the states that Databricks shows."""
    tasks.current_run.set(run_id)
    run = jobs._state["runs"][run_id]
    past = run["_past"]
    await _minilake_execute(run_id, argv)
    run["tasks"] = [*past, *run["tasks"]]
    last = run["tasks"][-1]
    if run["state"]["result_state"] == "FAILED":
        # Seen on workspaces, and not in the reference: a run of `tasks` that failed for whatever
        # reason ends as INTERNAL_ERROR, with this sentence; only its task tells why.
        said = last["state"].get("state_message", "")
        run["state"] = {
            "life_cycle_state": "INTERNAL_ERROR",
            "result_state": "FAILED",
            "state_message": f"Task {last['task_key']} failed with message: {said}.",
        }
    run["_history"][-1] |= {"state": run["state"], "end_time": tasks.now()}


@router.post("/api/2.2/jobs/runs/submit")
async def submit(req: SubmitRunRequest) -> dict[str, Any]:
    """Check the compute, as Databricks does before it gives an id."""
    if len(req.idempotency_token or "") > 64:
        raise tasks.refuse("This token must have at most 64 characters")
    for task in req.tasks or ():
        spec = task.model_dump(exclude_none=True)
        cluster = spec.get("new_cluster")
        if cluster is None and "environment_key" not in spec:
            raise tasks.refuse("Either new_cluster or environment_key must be specified")
        if cluster is not None and not cluster.get("spark_version"):
            raise tasks.refuse("Missing required field: settings.cluster_spec.spark_version")
    known = set(jobs._state["runs"])
    answer = await jobs.submit_run(req)
    if answer.run_id not in known:
        run = jobs._state["runs"][answer.run_id]
        run["_environments"] = (req.model_extra or {}).get("environments") or []
        run["_request"] = req.model_dump(exclude_none=True)
        run["_past"], run["_history"] = [], [{"type": "ORIGINAL", "start_time": tasks.now()}]
    return {"run_id": answer.run_id}


@router.get("/api/2.2/jobs/runs/get")
async def get(
    request: Request, run_id: int = Query(...), include_history: bool = Query(False)
) -> dict[str, Any]:
    """With the attempts before a repair and, where asked for, the repairs."""
    run = jobs._state["runs"].get(run_id)
    if run is None:
        raise tasks.refuse(f"Run {run_id} does not exist.")
    base = str(request.base_url).rstrip("/")
    shown = {name: value for name, value in run.items() if not name.startswith("_")}
    shown["run_page_url"] = f"{base}/#job/{run_id}/run/{run_id}"
    if include_history:
        shown["repair_history"] = [{"state": run["state"], **item} for item in run["_history"]]
    return shown


@router.post("/api/2.2/jobs/runs/cancel")
async def cancel(req: CancelRunRequest) -> dict[str, Any]:
    """ "The run is canceled asynchronously, so it may still be running when this completes." """
    run = jobs._state["runs"].get(req.run_id)
    if run is None:
        raise tasks.refuse(f"Run {req.run_id} does not exist.")
    if run["state"]["life_cycle_state"] not in _ENDS:
        run["_cancel_requested"] = True
        process = tasks.processes.get(req.run_id)
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
    return {}


@router.post("/api/2.2/jobs/runs/repair")
async def repair(request: Request) -> dict[str, Any]:
    """ "The run must not be in progress"; the id "of the latest repair ... must be provided"."""
    given = await request.json()
    run = jobs._state["runs"].get(given["run_id"])
    if run is None:
        raise tasks.refuse(f"Run {given['run_id']} does not exist.")
    if run["state"]["life_cycle_state"] not in _ENDS:
        raise tasks.refuse("The run must not be in progress")
    repairs = [item["id"] for item in run["_history"] if item["type"] == "REPAIR"]
    if given.get("latest_repair_id") != (repairs[-1] if repairs else None):
        raise tasks.refuse("latest_repair_id is not that of the latest repair")
    repair_id = jobs._next_run_id()
    pending = {"life_cycle_state": "PENDING", "result_state": None, "state_message": None}
    run["_history"].append({"type": "REPAIR", "id": repair_id, "start_time": tasks.now()})
    run["_past"], run["_cancel_requested"] = list(run["tasks"]), False
    # Its state is the old one for a moment: what a hasty caller would take for the repair's.
    later = asyncio.create_task(_restart(given["run_id"], pending))
    _running.add(later)
    return {"repair_id": repair_id}


async def _restart(run_id: int, pending: dict[str, Any]) -> None:
    run = jobs._state["runs"][run_id]
    run["_history"][-1]["state"] = pending
    await asyncio.sleep(0.3)
    run["state"] = pending
    run["_history"][-1].pop("state")
    await _execute_run(run_id, [])


@router.get("/api/2.2/jobs/runs/get-output")
async def get_output(run_id: int = Query(...)) -> dict[str, Any]:
    """Of a task's run only."""
    if run_id in jobs._state["runs"]:
        raise tasks.refuse(
            "Retrieving the output of runs with multiple tasks is not supported. Please retrieve "
            "the output of each individual task run instead."
        )
    found = jobs._state.get("task_outputs", {}).get(run_id, {})
    return {name: value for name, value in found.items() if value is not None}


@router.post("/test/faults")
async def plan(request: Request) -> dict[str, Any]:
    """Add to the faults."""
    tasks.faults.extend(await request.json())
    return {}


@router.get("/test/runs")
async def runs() -> list[dict[str, Any]]:
    """Every run with what asked for it."""
    return [
        {
            "run_id": run["run_id"],
            "state": run["state"],
            "request": run["_request"],
            "attempts": len(run["tasks"]),
            "repairs": len(run["_history"]) - 1,
            "looks": _looks[str(run["run_id"])],
        }
        for run in jobs._state["runs"].values()
    ]


def main() -> None:
    """Serve until told to end."""
    jobs._execute_run, jobs._execute_task = _execute_run, tasks.execute_task
    app = minilake_app.create_app()
    others = list(app.router.routes)
    app.include_router(router)
    ours = [route for route in app.router.routes if route not in others]
    app.router.routes[:] = [*ours, *others]

    @app.middleware("http")
    async def answer(request: Request, call_next: Any) -> Any:
        if request.url.path.endswith("/runs/get"):
            _looks[request.query_params.get("run_id", "")] += 1
        fault = tasks.take("path", lambda path: path in request.url.path)
        if fault is None:
            return await call_next(request)
        code, message = _CODES[fault["status"]]
        return JSONResponse(
            {"error_code": fault.get("code", code), "message": message}, fault["status"]
        )

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    os.environ.setdefault("MINILAKE_NOTEBOOK", "0")
    main()
