"""The health page, a table's history and the runbook, behind Airflow's own login and rights.

Read by who may read every DAG of the chain; acted on by who may edit the task instances of the
DAG in question. What the page says as HTML it says as JSON at the same address.
"""

import base64
import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.common.dagbag import DagBagDep, create_dag_bag
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.datamodels.task_instances import ClearTaskInstancesBody
from airflow.api_fastapi.core_api.routes.public.task_instances import post_clear_task_instances
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.api_fastapi.logging.decorators import action_logging
from airflow.models.dag import DagModel
from airflow.sdk.configuration import conf
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

import lumos.study
from lumos.settings import Settings
from lumos_airflow.health import draw, lake, origin, runbook
from lumos_airflow.health.board import Board, UnknownRecipe
from lumos_airflow.health.chain import duration
from lumos_airflow.health.runs import DAGS

PREFIX = "/lumos"
_TABLE = r"[a-z][a-z0-9_]{0,62}"
_TABLE_DAYS = 60
_HERE = Path(__file__).resolve().parent
_SCRIPT = (_HERE / "health.js").read_text(encoding="utf-8")
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_HEADERS = {
    # No script but ours, word for word: what a table or a message holds can never be one.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{_SCRIPT_HASH}'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    # Without a referrer a browser would hide the origin of *Run again* as well.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}


def may_read(user: GetUserDep) -> None:
    """The page tells of all these DAGs, so it is for who may read them all."""
    teams = DagModel.get_dag_id_to_team_name_mapping(list(DAGS))
    asked = [
        {"method": "GET", "details": DagDetails(id=dag_id, team_name=teams.get(dag_id))}
        for dag_id in DAGS
    ]
    if not get_auth_manager().batch_is_authorized_dag(asked, user=user):  # type: ignore[arg-type]
        raise HTTPException(403, "Forbidden")


def from_our_own_page(request: Request) -> None:
    """Refuse what another site made a browser send along with its cookie."""
    if not origin.is_our_own(request.headers, str(conf.get("api", "base_url", fallback="") or "")):
        raise HTTPException(403, "Only the health page itself may ask for this.")


def pages() -> FastAPI:
    """The application to mount at ``PREFIX``: 401 without a login, 403 without the right."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.dag_bag = create_dag_bag()
    app.state.board = Board()

    @app.get("/health", dependencies=[Depends(may_read)])
    def health(
        request: Request, user: GetUserDep, recipe: str | None = None, format: str = ""
    ) -> Response:
        may_act = _may_act(user)
        # A forced reload. Only of an operator: it makes the server read everything anew.
        if may_act and request.headers.get("cache-control") == "no-cache":
            app.state.board.forget()
        try:
            found = app.state.board.health(recipe)
        except UnknownRecipe as error:
            raise HTTPException(404, "no such recipe") from error
        if _wants_json(request, format):
            return Response(
                found.model_dump_json(), media_type="application/json", headers=_HEADERS
            )
        return _html("health.html.j2", {"health": found, "may_act": may_act, "root": "../"})

    _let_operators_act(app)

    @app.get("/health/tables/{table}", dependencies=[Depends(may_read)])
    def history(
        request: Request, table: str, recipe: str | None = None, format: str = ""
    ) -> Response:
        return _history(app.state.board, request, table, recipe, format)

    @app.get("/runbook")
    def show_runbook(user: GetUserDep) -> Response:
        found = runbook.render(runbook.RUNBOOK)
        if found is None:
            raise HTTPException(404, "docs/runbook.md is not part of this installation")
        html, sections = found
        return _html("runbook.html.j2", {"html": html, "sections": sections, "root": "../"})

    return app


def _let_operators_act(app: FastAPI) -> None:
    """The one address that changes something."""

    @app.post(
        "/health/retry",
        dependencies=[
            Depends(from_our_own_page),
            Depends(requires_access_dag("PUT", DagAccessEntity.TASK_INSTANCE)),
            Depends(action_logging("lumos_health_retry")),
        ],
    )
    def retry(
        request: Request,
        dag_id: str,
        run_id: str,
        task_id: str,
        dag_bag: DagBagDep,
        session: SessionDep,
        user: GetUserDep,
    ) -> Response:
        """Clear a failed task and what follows it, as Airflow's own button does."""
        if dag_id not in DAGS:
            raise HTTPException(404, "no such task")
        body = ClearTaskInstancesBody(
            dag_run_id=run_id,
            task_ids=[task_id],
            dry_run=False,
            only_failed=True,
            include_downstream=True,
        )
        cleared = post_clear_task_instances(dag_id, dag_bag, body, session, user)
        app.state.board.forget()
        if _wants_json(request):
            return JSONResponse({"cleared": cleared.total_entries}, headers=_HEADERS)
        return RedirectResponse("../health", status_code=303, headers=_HEADERS)


def _history(board: Board, request: Request, table: str, recipe: str | None, form: str) -> Response:
    """A table's entries, newest first; 404 for whatever the ledger does not know."""
    if not re.fullmatch(_TABLE, table):
        raise HTTPException(404, "no such table")
    try:
        found = board.health(recipe)
    except UnknownRecipe as error:
        raise HTTPException(404, "no such recipe") from error
    if found.tables.status == "unknown" and not found.tables.tables:
        raise HTTPException(503, found.tables.note)
    fact = next((each for each in found.tables.tables if each.name == table), None)
    if fact is None:
        raise HTTPException(404, "no such table")
    uri = lake.uri(Settings.from_environment(), board.folder(found.recipe), "ledger")
    rows = lake.entries(uri, table=table, days=_TABLE_DAYS)
    if _wants_json(request, form):
        told = [{**vars(row), "date": row.date.isoformat()} for row in rows]
        content = {"recipe": found.recipe, "table": table, "status": fact.status, "entries": told}
        return JSONResponse(content, headers=_HEADERS)
    context = {"fact": fact, "recipe": found.recipe, "rows": rows[::-1], "root": "../../../"}
    bars = draw.bars([row.rows for row in rows], [f"{r.date}: {r.rows:,} rows" for r in rows])
    return _html("table.html.j2", {**context, "bars": bars, "days": _TABLE_DAYS})


def _may_act(user: Any) -> bool:  # noqa: ANN401 - of any auth manager
    return get_auth_manager().is_authorized_dag(
        method="PUT",
        access_entity=DagAccessEntity.TASK_INSTANCE,
        details=DagDetails(id="batch_scoring"),
        user=user,
    )


def _wants_json(request: Request, form: str = "") -> bool:
    accepted = request.headers.get("accept", "")
    return form == "json" or ("application/json" in accepted and "text/html" not in accepted)


def _html(template: str, context: Mapping[str, Any]) -> HTMLResponse:
    text = _environment().get_template(template).render(script=_SCRIPT, **context)
    return HTMLResponse(text, headers=_HEADERS)


@cache
def _environment() -> jinja2.Environment:
    """Our templates, and those of the reports, whose looks these pages share."""
    folders = [_HERE, *map(Path, lumos.study.__path__)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": duration,
        "clock": lambda when: f"{when:%H:%M}" if when else "",
        "moment": lambda when: f"{when:%Y-%m-%d %H:%M} UTC" if when else "",
        "day": lambda date: f"{date:%a} {date.day} {date:%b %Y}" if date else "",
        "figures": lambda value: "-" if value is None else f"{value:.4g}",
        "path": lambda text: quote(text, safe=""),
        "age": lambda when: duration((dt.datetime.now(dt.UTC) - when).total_seconds()),
    }
    environment.globals |= {"track": draw.track, "spark": draw.spark}
    return environment
