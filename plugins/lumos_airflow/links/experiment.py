"""The button on ``review`` that opens the page it wrote, also where the task is red."""

from typing import Any
from urllib.parse import urlsplit

from airflow.sdk import BaseOperatorLink

from lumos.settings import Settings

REPORTS = "/lumos/reports"


class ExperimentPageLink(BaseOperatorLink):
    """The page of the experiment asked for; without one, the page that lists all."""

    name = "Experiment page"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:  # noqa: ANN401 - Airflow's own
        """Address on the server that shows the UI, by whatever name the browser knows that."""
        reports = reports_of(operator.recipe)
        folder = f"{reports}/experiments"
        experiment = operator.options.get("experiment")
        page = f"{experiment}/{operator.date}/" if experiment else ""
        return f"{folder}/{page}index.html" if reports else ""


def reports_of(recipe: str) -> str:
    """Where the server has a recipe's pages, by whatever name the browser knows the server.

    Empty before the first verb of the recipe, which has no pages then.
    """
    # Not at parse: recipes import numpy.
    from airflow.sdk.configuration import conf

    from lumos import stored

    try:
        name = stored.read(Settings.from_environment(), recipe).name
    except ValueError:
        return ""
    below = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
    return f"{below}{REPORTS}/{name}"
