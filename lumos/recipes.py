"""Recipes by name: the shipped ones, and anyone's own as ``package.module:function``."""

import importlib
import inspect

from pydantic import ValidationError

import lumos.datasets
from lumos.allowed import is_name, shipped
from lumos.config import Recipe, explain
from lumos.overrides import shown


def load(name: str) -> Recipe:
    """Build the recipe that ``name`` stands for.

    Args:
        name: A shipped recipe (``complete_journey``), or ``package.module:function`` for a
            function without arguments, in any importable package, that returns a Recipe.

    Raises:
        ValueError: No such recipe, or what the function made is not a valid one.
    """
    if not is_name(name):
        msg = (
            f"recipe {shown(name)} is unknown: shipped are {', '.join(shipped())}; "
            "your own is named package.module:function"
        )
        raise ValueError(msg)
    if name in shipped():
        name = f"{lumos.datasets.__name__}.{name}:recipe"
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
