"""Fields of a recipe that one run replaces: ``--set KEY.PATH=VALUE``, and what of it Airflow may.

Whoever may start a DAG may tune a training or let an unusual day pass, but not choose what is read,
by which SQL, nor where it goes.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumos.config import Recipe

TUNABLE = ("evaluation", "model", "scoring", "training")
# What decides whether work is passed on. An override of one is entered in the table `audit`.
LIMITS = (
    "evaluation.baseline_margin",
    "evaluation.margin",
    "evaluation.shadow_days",
    "publishing.max_calibration_error",
    "publishing.max_drift",
    "publishing.max_volume_change",
    "publishing.min_coverage",
    "quality.max_quarantined_share",
    "quality.max_volume_change",
)
MAX_SETTINGS, MAX_CHARACTERS = 50, 500
_OTHER_LIMITS = [name for name in LIMITS if not name.startswith(TUNABLE)]
# Of one override in the form. Also JSON Schema's dialect, so no Python-only syntax.
PATTERN = (
    rf"^(({'|'.join(TUNABLE)})(\.[a-z][a-z0-9_]*)+|"
    rf"{'|'.join(map(re.escape, _OTHER_LIMITS))})=.+$"
)
_SHOWN_CHARACTERS = 60


def override(recipe: "Recipe", changes: Mapping[str, Any]) -> "Recipe":
    """A copy with some fields replaced, checked as if it had been written so.

    Args:
        recipe: The recipe to start from.
        changes: Dotted field names and new values, such as ``{"training.epochs": 2}``.

    Raises:
        ValueError: A path names no field, or the result is no valid recipe.
    """
    # Here, because DAG files import this module and must parse in no time.
    from pydantic import ValidationError

    from lumos.frozen import explain

    tree = recipe.model_dump()
    for path, value in changes.items():
        node: Any = tree
        *parents, leaf = path.split(".")
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            choices = sorted(node) if isinstance(node, dict) else sorted(tree)
            msg = f"{shown(path)} is no field of a recipe; at that level there are {choices}"
            raise ValueError(msg)
        node[leaf] = value
    try:
        return type(recipe).model_validate(tree)
    except ValidationError as error:
        raise ValueError(explain(error)) from error


def assignments(settings: Iterable[str]) -> dict[str, Any]:
    """Field names and values of ``KEY.PATH=VALUE``; a value is JSON, or else text.

    Raises:
        ValueError: One of them has no ``=``, or nests too deep.
    """
    return dict(map(_assignment, settings))


def limits_among(settings: Iterable[str]) -> dict[str, Any]:
    """Those of ``KEY.PATH=VALUE`` that move a limit, for the table `audit`.

    Raises:
        ValueError: As :func:`assignments`.
    """
    changes = assignments(settings)
    return {name: value for name, value in changes.items() if name in LIMITS}


def refuse_unless_tuning(settings: object) -> None:
    """What Airflow asks of the overrides of a run, before anything else looks at them.

    Raises:
        ValueError: One of them names a field that a run may not set, or there are too many.
    """
    if not isinstance(settings, list) or not all(isinstance(text, str) for text in settings):
        msg = "overrides are a list of KEY.PATH=VALUE, each of them text"
        raise ValueError(msg)
    if len(settings) > MAX_SETTINGS:
        msg = f"{len(settings)} overrides are too many for a run; at most {MAX_SETTINGS} are taken"
        raise ValueError(msg)
    for text in settings:
        if len(text) > MAX_CHARACTERS:
            msg = f"override {shown(text)} is longer than {MAX_CHARACTERS} characters"
            raise ValueError(msg)
        if not re.fullmatch(PATTERN, text, re.DOTALL):
            wildcards = ", ".join(f"{name}.*" for name in TUNABLE)
            msg = (
                f"override {shown(text)} is not allowed in a run of Airflow: allowed are "
                f"{wildcards}, {', '.join(_OTHER_LIMITS)}. Change the recipe for anything else"
            )
            raise ValueError(msg)


def shown(text: str) -> str:
    """Foreign text for a message: quoted, in ASCII, and not too long."""
    cut = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
    return ascii(cut)


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        msg = f"--set {shown(text)} is not KEY.PATH=VALUE, such as training.epochs=2"
        raise ValueError(msg)
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
    except RecursionError as error:
        msg = f"--set {shown(text)} nests too deep"
        raise ValueError(msg) from error
