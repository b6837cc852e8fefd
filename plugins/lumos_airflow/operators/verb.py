"""What a verb's task is on every platform: its command line, and what its end means to Airflow."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from lumos.allowed import refuse_unless_allowed
from lumos.codes import BAD_INPUT, REFUSED
from lumos.host.process import Ended
from lumos.overrides import refuse_unless_tuning
from lumos.settings import Settings

if TYPE_CHECKING:
    from lumos.verbs import Request


class VerbOperator(BaseOperator):
    """One ``lumos`` verb, its report as XCom; subclasses say where it runs.

    ``options`` and ``switches`` are templates by flag name; an option that renders to nothing
    is left out, a switch is given when it renders to ``True``. ``overrides`` renders to a JSON
    list of ``KEY.PATH=VALUE``, and ``actor`` to who started the run. Exit codes 1 and 75 are
    retried; 2 (bad input) and 3 (a gate refused) fail the task at once, with the verb's own
    sentence.
    """

    template_fields: Sequence[str] = ("date", "recipe", "options", "switches", "overrides", "actor")
    ui_color = "#e4ecf7"

    def __init__(
        self,
        *,
        verb: str,
        options: Mapping[str, str] | None = None,
        switches: Mapping[str, str] | None = None,
        date: str = "{{ business_date() }}",
        recipe: str = "{{ params.recipe }}",
        overrides: str = "{{ params.settings | tojson }}",
        actor: str = "{{ dag_run.triggering_user_name or dag_run.run_type }}",
        **kwargs: Any,  # noqa: ANN401 - BaseOperator's own
    ) -> None:
        super().__init__(**kwargs)
        self.verb = verb
        self.options = dict(options or {})
        self.switches = dict(switches or {})
        self.date = date
        self.recipe = recipe
        self.overrides = overrides
        self.actor = actor

    @property
    def arguments(self) -> list[str]:
        """What follows ``lumos`` on the command line; only valid once templates are rendered.

        Raises:
            AirflowFailException: The recipe or an override is none that a run may use.
        """
        settings = json.loads(self.overrides) or []
        try:
            refuse_unless_allowed(self.recipe, Settings.from_environment())
            refuse_unless_tuning(settings)
        except ValueError as error:
            raise AirflowFailException(str(error)) from error
        arguments = [self.verb, f"--recipe={self.recipe}", f"--date={self.date}"]
        arguments += [f"--{name}={value}" for name, value in self.options.items() if value]
        arguments += [f"--{name}" for name, value in self.switches.items() if value == "True"]
        arguments += [f"--set={change}" for change in settings]
        return arguments

    def request(self) -> "Request":
        """What the verb will be asked, checked as it will check it.

        Raises:
            AirflowFailException: There is no such recipe or override.
        """
        # Not at parse: recipes import numpy.
        from lumos.cli import parser, request_from
        from lumos.verbs import BadInput

        try:
            return request_from(parser().parse_args(self.arguments), dt.datetime.now(dt.UTC))
        except BadInput as error:
            raise AirflowFailException(str(error)) from error

    def recipe_processes(self) -> int:
        """Ranks that the recipe wants for the verb, with the task's overrides."""
        recipe = self.request().recipe
        return recipe.scoring.processes if self.verb == "score" else recipe.training.processes

    def conclude(self, context: Context, ended: Ended) -> dict[str, Any]:
        """The report of a verb that ended well, after its outlets were told of it.

        Raises:
            AirflowFailException: Bad input, a refusing gate, or no report: no retry.
            AirflowException: A fault worth a retry.
        """
        said = f": {ended.last_error}" if ended.last_error else ""
        if ended.code == BAD_INPUT:
            msg = f"lumos {self.verb} was given bad input, which a retry cannot mend{said}"
            raise AirflowFailException(msg)
        if ended.code == REFUSED:
            msg = f"the gate of lumos {self.verb} refused{said}"
            raise AirflowFailException(msg)
        if ended.code:
            how = f"signal {ended.code - 128}" if ended.code > 128 else f"exit code {ended.code}"
            msg = f"lumos {self.verb} ended with {how}{said}"
            raise AirflowException(msg)
        try:
            report = ended.report
        except ValueError as error:
            raise AirflowFailException(str(error)) from error
        self._note_assets(context, report)
        return report

    def _note_assets(self, context: Context, report: Mapping[str, Any]) -> None:
        """Say in each outlet's event which date, version and rows it stands for."""
        written = {item["table"]: item for item in report.get("tables", ())}
        for asset in self.outlets:
            item = written.get(asset.name)
            if item is not None:
                context["outlet_events"][asset].extra.update(
                    {"business_date": self.date, "recipe": self.recipe, **item}
                )
