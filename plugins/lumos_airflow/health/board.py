"""Who reads what, and how long it is kept: everything that the page asks for, behind its caches."""

import datetime as dt
from dataclasses import dataclass
from functools import partial

from airflow.utils.session import create_session

from lumos import stored
from lumos.allowed import allowed
from lumos.settings import Settings
from lumos_airflow.health import lake, look, machines, runs, state
from lumos_airflow.health.facts import Health
from lumos_airflow.health.latest import Latest, Reading

_NEVER_RUN = (
    "No verb has run yet for this recipe on this lake: its tables, model and experiments are "
    "unknown. The first run of daily_aggregation starts them."
)


class UnknownRecipe(Exception):
    """Nobody has ever run it, and it is none of ours."""


@dataclass(frozen=True)
class _Sources:
    """What is kept of one recipe; ``folder`` is its own name, empty before its first verb."""

    folder: Latest[str]
    lake: Latest[lake.Lake]
    found: Latest[look.Found]


class Board:
    """One for the server; every method may be called by many threads at once."""

    def __init__(self) -> None:
        self._runs = Latest("Airflow's database", self._read_runs, fresh_seconds=10, wait_seconds=5)
        self._by_recipe: dict[str, _Sources] = {}
        self._rented: dict[tuple[str, ...], Latest[machines.Rented | None]] = {}

    def health(self, recipe: str | None) -> Health:
        """Of a recipe; of the deployment's own where none is named.

        Raises:
            UnknownRecipe: There is no such recipe, and never was one in the runs that are read.
        """
        settings = Settings.from_environment()
        default = settings.recipe
        reading = self._runs.get()
        seen = reading.value.recipes if reading.value else ()
        recipes = tuple(dict.fromkeys((default, *seen)))
        name = default if recipe is None else recipe
        if name not in {*recipes, *allowed(settings)}:
            raise UnknownRecipe(name)
        sources = self._sources(name)
        named = sources.folder.get()
        folder = named.value or ""
        trouble = "" if folder else named.trouble or _NEVER_RUN
        now = dt.datetime.now(dt.UTC)
        known = state.Known(
            recipe=name,
            recipes=recipes,
            folder=folder,
            trouble=trouble,
            runs=reading,
            lake=sources.lake.get() if folder else Reading(None, None, trouble),
            found=sources.found.get(),
            rented=self._rent(reading.value, name),
        )
        return state.judge(known, now)

    def folder(self, recipe: str) -> str:
        """The recipe's name in the lake; empty if it is not known."""
        return self._sources(recipe).folder.get().value or ""

    def forget(self) -> None:
        """Read everything anew for the next one who asks."""
        self._runs.forget()
        for sources in self._by_recipe.values():
            sources.folder.forget()
            sources.lake.forget()

    def _sources(self, name: str) -> _Sources:
        found = self._by_recipe.get(name)
        if found is None:
            registry = Latest(
                "The model registry",
                partial(look.look, name),
                fresh_seconds=60,
                wait_seconds=0,
                stale_seconds=600,
            )
            folder = Latest("The lake", partial(_folder, name), fresh_seconds=30, wait_seconds=4)
            store = Latest(
                "The lake",
                lambda: lake.read(Settings.from_environment(), folder.get().value or ""),
                fresh_seconds=30,
                wait_seconds=4,
            )
            # Of two threads that come first, both get the one that was put in.
            found = self._by_recipe.setdefault(name, _Sources(folder, store, registry))
        return found

    def _rent(self, found: runs.Runs | None, name: str) -> Reading[machines.Rented | None]:
        task = state.running_train(found, name)
        if task is None or Settings.from_environment().platform != "aws":
            return Reading(None, None)
        key = (task.dag_id, task.run_id, str(task.max_tries))
        if key not in self._rented:
            self._rented = {
                key: Latest("AWS", partial(machines.rented, task), fresh_seconds=60, wait_seconds=3)
            }
        return self._rented[key].get()

    @staticmethod
    def _read_runs() -> runs.Runs:
        with create_session(scoped=False) as session:
            return runs.read(session, Settings.from_environment().recipe)


def _folder(name: str) -> str:
    settings = Settings.from_environment()
    lake.refuse_absent(settings)
    try:
        return stored.read(settings, name).name
    except stored.NotStored:
        return ""
