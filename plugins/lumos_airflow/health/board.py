"""Who reads what, and how long it is kept: everything that the page asks for, behind its caches."""

import datetime as dt
import logging
import re
from dataclasses import dataclass
from functools import partial

from airflow.utils.session import create_session

from lumos.recipes import load, shipped
from lumos.settings import Settings
from lumos_airflow.form import _RECIPE
from lumos_airflow.health import lake, look, machines, runs, state
from lumos_airflow.health.facts import Health
from lumos_airflow.health.latest import Latest, Reading

log = logging.getLogger(__name__)
_REMOVED = (
    "The recipe no longer loads, though it may have runs: its tables, model and experiments are "
    "unknown. Is its name right, and its package still installed?"
)


class UnknownRecipe(Exception):
    """Nobody has ever run it, and it is none of ours."""


@dataclass(frozen=True)
class _Sources:
    """What is kept of one recipe."""

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
        default = Settings.from_environment().recipe
        reading = self._runs.get()
        seen = reading.value.recipes if reading.value else ()
        recipes = tuple(dict.fromkeys((default, *seen)))
        name = default if recipe is None else recipe
        if not re.fullmatch(_RECIPE, name) or name not in {*recipes, *shipped()}:
            raise UnknownRecipe(name)
        sources = self._sources(name, default)
        found = sources.found.get()
        folder, trouble = _folder(name, default, found)
        now = dt.datetime.now(dt.UTC)
        known = state.Known(
            recipe=name,
            recipes=recipes,
            folder=folder,
            trouble=trouble,
            runs=reading,
            lake=sources.lake.get() if folder else Reading(None, None, trouble),
            found=found,
            rented=self._rent(reading.value, name),
        )
        return state.judge(known, now)

    def folder(self, recipe: str) -> str:
        """The recipe's name in the lake; empty if it is not known."""
        default = Settings.from_environment().recipe
        return _folder(recipe, default, self._sources(recipe, default).found.get())[0]

    def forget(self) -> None:
        """Read everything anew for the next one who asks."""
        self._runs.forget()
        for sources in self._by_recipe.values():
            sources.lake.forget()

    def _sources(self, name: str, default: str) -> _Sources:
        found = self._by_recipe.get(name)
        if found is None:
            registry = Latest(
                "The model registry",
                partial(look.look, name),
                fresh_seconds=60,
                wait_seconds=0,
                stale_seconds=600,
            )
            store = Latest(
                "The lake",
                lambda: lake.read(
                    Settings.from_environment(), _folder(name, default, registry.get())[0]
                ),
                fresh_seconds=30,
                wait_seconds=4,
            )
            # Of two threads that come first, both get the one that was put in.
            found = self._by_recipe.setdefault(name, _Sources(store, registry))
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


def _folder(name: str, default: str, found: Reading[look.Found]) -> tuple[str, str]:
    """The recipe's own name, or why it is not known.

    Only what the deployment itself names or ships is imported here. A name from a run is
    anybody's code: ``os:abort`` would be called as a recipe like any other.
    """
    if name == default or name in shipped():
        try:
            return load(name).name, ""
        except Exception:  # a recipe is a program, and may fail as one
            log.exception("recipe %s does not load", name)
            return "", _REMOVED
    if found.value is None:
        return "", found.trouble.replace("The model registry", "The recipe")
    return found.value.folder, _REMOVED if found.value.trouble == "recipe" else ""
