"""Recipes by name: the shipped ones, and anyone's own as ``package.module:function``."""

import importlib
import inspect
import re

from pydantic import ValidationError

import lumos.datasets
from lumos.config import Recipe, explain
from lumos.datasets.land import shipped_datasets


def shipped() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    return shipped_datasets()


def load(name: str) -> Recipe:
    """Build the recipe that ``name`` stands for.

    Args:
        name: A shipped recipe (``complete_journey``), or ``package.module:function`` for a
            function without arguments, in any importable package, that returns a Recipe.

    Raises:
        ValueError: No such recipe, or what the function made is not a valid one.
    """
    if name in shipped():
        name = f"{lumos.datasets.__name__}.{name}:recipe"
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name):
        msg = (
            f"recipe {name!r} is unknown: shipped are {', '.join(shipped())}; "
            "your own is named package.module:function"
        )
        raise ValueError(msg)
    module, function = name.split(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        msg = f"recipe {name!r}: no module {error.name!r}; is it installed, or on PYTHONPATH?"
        raise ValueError(msg) from error
    build = getattr(found, function, None)
    if not callable(build):
        msg = f"recipe {name!r}: module {module} has no function {function!r}"
        raise ValueError(msg)
    try:
        inspect.signature(build).bind()
    except TypeError as error:
        msg = f"recipe {name!r}: the function must be callable without arguments ({error})"
        raise ValueError(msg) from error
    try:
        recipe = build()
    except ValidationError as error:
        msg = f"recipe {name!r}: {explain(error)}"
        raise ValueError(msg) from error
    if not isinstance(recipe, Recipe):
        msg = f"recipe {name!r} returned {type(recipe).__name__}, expected a lumos.config.Recipe"
        raise ValueError(msg)
    return recipe
