"""Which parts of a recipe a verb reads while it runs."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lumos import config, forms, ownership, tables
from lumos.cli import run
from lumos.config import Config, Recipe
from lumos.dependencies import VERBS
from lumos.verbs import Report, Request

# `training`, `scoring` ...: what is read of them is named as `training.seed`.
_NESTED = {
    field.annotation: name
    for name, field in Recipe.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Config)
}
# These read parts of any recipe: its checks, its properties, whose a lake is, and the columns of
# every table there is, of which a verb reads or writes a few. The callers of properties are asked.
_PROPERTIES = {"binary", "continuous", "sql_folder"}
_ANY = (config.__file__, forms.__file__, ownership.__file__, tables.__file__)


_listeners: list[set[str]] = []
_lock = threading.Lock()
_plain = Config.__getattribute__


def _traced(part: Config, name: str) -> Any:
    kind = type(part)
    if kind in (Recipe, *_NESTED) and name in kind.model_fields:
        caller = sys._getframe(1)
        if caller.f_code.co_name in _PROPERTIES and caller.f_back is not None:
            caller = caller.f_back
        if caller.f_code.co_filename not in _ANY:
            read = name if kind is Recipe else f"{_NESTED[kind]}.{name}"
            for found in _listeners:
                found.add(read)
    return _plain(part, name)


@contextmanager
def recipe_parts() -> Iterator[set[str]]:
    """The dotted names of a recipe's fields that are read within the context, in this process.

    Those that other threads read meanwhile are among them: a verb may have threads.
    """
    found: set[str] = set()
    with _lock:
        _listeners.append(found)
        Config.__getattribute__ = _traced  # type: ignore[method-assign]
    try:
        yield found
    finally:
        with _lock:
            # By identity: two sets may be equal.
            _listeners[:] = [other for other in _listeners if other is not found]
            if not _listeners:
                Config.__getattribute__ = _plain  # type: ignore[method-assign]
        found -= set(_NESTED.values())


def run_declared(request: Request) -> Report:
    """Run a verb, which may read of a recipe what it declares, and no more."""
    with recipe_parts() as read:
        report = run(request)
    if request.verb in VERBS:
        undeclared = sorted(VERBS[request.verb].undeclared(read))
        assert not undeclared, (
            f"{request.verb} does not declare {undeclared}: lumos/dependencies.py"
        )
    return report
