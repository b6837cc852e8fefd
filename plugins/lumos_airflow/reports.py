"""Pages of experiments and of monitors on Airflow's own server, behind its login.

Experiments are for who may see the DAG ``ab_metrics``, monitors for who may see ``data_quality``.
Nothing but ``index.html`` below ``experiments`` and ``monitor`` of ``$LUMOS_HOME/reports/RECIPE``
is served, and a page may run no script and fetch nothing: what a table holds must not act in the
session of a reader.
"""

import re

from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse

from lumos.settings import Settings

_NAME = r"[a-z][a-z0-9_]{0,62}"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def reports() -> FastAPI:
    """The application to mount; it says 401 without a login, 403 without a right to the DAG."""
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    of_experiments = [Depends(requires_access_dag("GET", param_dag_id="ab_metrics"))]
    of_monitors = [Depends(requires_access_dag("GET", param_dag_id="data_quality"))]

    @app.get("/{recipe}/experiments/index.html", dependencies=of_experiments)
    def index(recipe: str) -> HTMLResponse:
        return _page((recipe, _NAME), ("experiments", _NAME))

    @app.get("/{recipe}/experiments/{experiment}/{date}/index.html", dependencies=of_experiments)
    def experiment(recipe: str, experiment: str, date: str) -> HTMLResponse:
        return _page((recipe, _NAME), ("experiments", _NAME), (experiment, _NAME), (date, _DATE))

    @app.get("/{recipe}/monitor/{date}/index.html", dependencies=of_monitors)
    def monitor(recipe: str, date: str) -> HTMLResponse:
        return _page((recipe, _NAME), ("monitor", _NAME), (date, _DATE))

    return app


def _page(*parts: tuple[str, str]) -> HTMLResponse:
    """``index.html`` in the folder that the parts name, each of which has its pattern."""
    root = (Settings.from_environment().home / "reports").resolve()
    if all(re.fullmatch(pattern, part) for part, pattern in parts):
        path = root.joinpath(*(part for part, _ in parts), "index.html").resolve()
        # Resolved, so that a link cannot lead out of the folder either.
        if path.is_relative_to(root) and path.is_file():
            return HTMLResponse(path.read_bytes(), headers=_HEADERS)
    raise HTTPException(404, "no such page; lumos review and lumos monitor write them")
