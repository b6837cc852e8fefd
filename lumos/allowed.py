"""Which recipes a run of Airflow may use: a recipe is code, and who starts a run names one.

Allowed are the shipped recipes, the deployment's own ``LUMOS_RECIPE``, and what it lists in
``LUMOS_ALLOWED_RECIPES``, with commas between. Airflow's tasks always hand the list on to their
verbs. Where the variable is not set, as on a person's own machine, a verb takes any function.
"""

import pkgutil
import re

import lumos.datasets
from lumos.overrides import shown
from lumos.settings import Settings

# A name is also that of a file; see lumos.stored.
_NAMED = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")
_MAX_CHARACTERS = 200
_NOT_DATASETS = {"land"}


def shipped() -> tuple[str, ...]:
    """Names of the recipes and datasets that come with the package, read off the folder."""
    found = {module.name for module in pkgutil.iter_modules(lumos.datasets.__path__)}
    return tuple(sorted(found - _NOT_DATASETS))


def is_name(name: str) -> bool:
    """Whether a recipe can be called so; nothing is imported to find out."""
    return name in shipped() or (len(name) <= _MAX_CHARACTERS and bool(_NAMED.fullmatch(name)))


def allowed(settings: Settings) -> tuple[str, ...]:
    """Names that a run may give, in the order of the form.

    Raises:
        ValueError: ``LUMOS_ALLOWED_RECIPES`` holds what cannot be the name of a recipe.
    """
    listed = [entry.strip() for entry in (settings.allowed_recipes or "").split(",")]
    found = dict.fromkeys([settings.recipe, *shipped(), *filter(None, listed)])
    for name in found:
        if not is_name(name):
            msg = (
                f"{shown(name)} in LUMOS_RECIPE or LUMOS_ALLOWED_RECIPES is not a recipe: expected "
                f"{', '.join(shipped())}, or package.module:function, with commas between them"
            )
            raise ValueError(msg)
    return tuple(found)


def refuse_unless_allowed(name: str, settings: Settings) -> None:
    """Called before anything of the name is imported.

    Raises:
        ValueError: The deployment does not allow it.
    """
    if name not in (known := allowed(settings)):
        msg = (
            f"recipe {shown(name)} is not allowed here: allowed are {', '.join(known)}. To allow "
            "another one, list its package.module:function in LUMOS_ALLOWED_RECIPES of all "
            "components of Airflow"
        )
        raise ValueError(msg)
