"""The verb ``land``: play the platform for a shipped dataset."""

import importlib

from lumos.allowed import shipped
from lumos.verbs import BadInput, Report, Request


def land(request: Request) -> Report:
    """Write the raw tables of ``--dataset`` that have landed by ``--date``.

    Raises:
        BadInput: The dataset is not one that ships with the package, or not the recipe's.
    """
    name = request.options["dataset"] or request.recipe.dataset
    if name not in shipped():
        msg = (
            f"dataset {name!r} does not ship with lumos; "
            f"shipped are {', '.join(shipped())}. "
            "A platform's own raw tables land by themselves: see docs/adopt.md"
        )
        raise BadInput(msg)
    if name != request.recipe.dataset:
        msg = (
            f"recipe {request.recipe.name} reads dataset {request.recipe.dataset!r}, not {name!r}: "
            f"run again with --recipe {name}"
        )
        raise BadInput(msg)
    report: Report = importlib.import_module(f"lumos.datasets.{name}").land(request)
    return report
