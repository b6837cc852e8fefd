"""An experiment that runs is held to what was declared: its file, and the SELECTs that it names.

`assign` writes both into the table `experiments` on the first day. From then on every verb that
assigns or measures compares.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lumos.delta import predicate, read, replace
from lumos.experiment.declaration import Experiment, folder
from lumos.experiment.metrics import load_metric
from lumos.experiment.texts import read_text
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, Request

# What may differ from the declaration as it was frozen, and changes nobody's variant or verdict.
_MAY_CHANGE = frozenset({"ramp", "stopped_on", "description"})


def beside(request: Request, experiment: Experiment, name: str) -> Path:
    """The file that lies beside the declaration.

    Raises:
        BadInput: It does not.
    """
    path = folder(request.settings, request.recipe) / name
    if not path.is_file():
        msg = f"experiment {experiment.name} names {name}, which is not there: expected {path}"
        raise BadInput(msg)
    return path


def digest(request: Request, experiments: Sequence[Experiment]) -> str:
    """Changes whenever a declaration does, or a file that it names.

    Raises:
        BadInput: Such a file is not there.
    """
    found = hashlib.sha256()
    for experiment in experiments:
        found.update(experiment.model_dump_json().encode())
        found.update(json.dumps(_selects(request, experiment)).encode())
        if experiment.excluded:
            found.update(beside(request, experiment, experiment.excluded).read_bytes())
    return found.hexdigest()[:16]


def _selects(request: Request, experiment: Experiment) -> dict[str, str]:
    """A digest of each SELECT that says who takes part or what is measured."""
    texts = {
        f"metrics/{name}.sql": load_metric(request.settings, request.recipe, name).text
        for name in experiment.metrics
    }
    for name in (experiment.eligible, experiment.exposures):
        if name is not None:
            texts[name] = read_text(beside(request, experiment, name))
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def freeze(request: Request, experiment: Experiment) -> None:
    """Write down a declaration on its first day, or hold its file to what was written.

    Raises:
        BadInput: A file has changed in what may not change any more.
    """
    declared_as = tables(request.recipe)["experiments"]
    frozen = _frozen(request, experiment.name)
    row = {
        "experiment": experiment.name,
        "frozen_on": request.date,
        "assigned_until": request.date,
        "declaration": experiment.model_dump_json(),
        "selects": json.dumps(_selects(request, experiment)),
    }
    if frozen is not None:
        _refuse_changes(request, experiment, frozen)
        row["frozen_on"] = min(frozen["frozen_on"], request.date)
        row["assigned_until"] = max(frozen["assigned_until"], request.date)
    if row != frozen:
        replace(
            table_uri(request.settings, request.recipe, "experiments"),
            pa.Table.from_pylist([row], schema=declared_as.arrow_schema(request.recipe)),
            where=predicate(experiment=experiment.name),
            partition=declared_as.partition,
        )


def hold(request: Request, experiment: Experiment) -> None:
    """The files still say what `assign` has written down.

    Raises:
        BadInput: A file has changed in what may not change any more, or is gone.
    """
    frozen = _frozen(request, experiment.name)
    if frozen is not None:
        _refuse_changes(request, experiment, frozen)


def _frozen(request: Request, name: str) -> dict[str, Any] | None:
    uri = table_uri(request.settings, request.recipe, "experiments")
    rows = read(uri, where=predicate(experiment=name))
    found: list[dict[str, Any]] = [] if rows is None else rows.to_pylist()
    return found[0] if found else None


def _refuse_changes(request: Request, experiment: Experiment, frozen: Mapping[str, Any]) -> None:
    was: dict[str, Any] = json.loads(frozen["declaration"])
    now: dict[str, Any] = json.loads(experiment.model_dump_json())
    changed = [name for name in now if now[name] != was.get(name) and name not in _MAY_CHANGE]
    selected: dict[str, str] = json.loads(frozen["selects"])
    changed += [
        name for name, text in _selects(request, experiment).items() if selected.get(name) != text
    ]
    until = frozen["assigned_until"].isoformat()
    past, still = ([s for s in said["ramp"] if s["day"] <= until] for said in (was, now))
    if past != still:
        changed.append(f"the ramp up to {until}, by which users were assigned")
    if changed:
        msg = (
            f"experiment {experiment.name} has run since {frozen['frozen_on']}, and since then its "
            f"file or one that it names has changed: {', '.join(changed)}. Put that back, or "
            "declare a new experiment under a new name; only steps of the ramp to come, "
            "stopped_on, the description and the list of excluded users may change"
        )
        raise BadInput(msg)
