"""The files that say what a metric is: one SELECT each, found by its name."""

import re
from dataclasses import dataclass
from pathlib import Path

from lumos.config import Recipe
from lumos.experiment.texts import read_text
from lumos.settings import Settings, shipped_sql
from lumos.verbs import BadInput

_HEADER = re.compile(r"--\s*winsorize:\s*(\S+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Metric:
    """One SELECT; ``winsorize`` is the quantile above which a user counts as the quantile."""

    name: str
    title: str
    text: str
    path: Path
    winsorize: float | None = None


def load_metric(settings: Settings, recipe: Recipe, name: str) -> Metric:
    """The metric of that name: the recipe's own, the adopter's, or a shipped one.

    Raises:
        BadInput: No such file, or a quantile that is none.
    """
    roots = [
        settings.sql_root / recipe.sql_folder / "metrics",
        *(root / "experiment" / "metrics" for root in (settings.sql_root, shipped_sql())),
    ]
    for path in (root / f"{name}.sql" for root in roots):
        if path.is_file():
            break
    else:
        known = sorted({found.stem for root in roots for found in root.glob("*.sql")})
        msg = (
            f"there is no metric {name!r}: no {name}.sql in {' or '.join(map(str, roots))}; "
            f"there are {', '.join(known)}"
        )
        raise BadInput(msg)
    text = read_text(path)
    quantile = _HEADER.search(text)
    title = next(
        (line.removeprefix("--").strip() for line in text.splitlines() if line.startswith("--")),
        name,
    )
    if quantile is None:
        return Metric(name, title, text, path)
    try:
        winsorize = float(quantile.group(1))
    except ValueError:
        winsorize = 0.0
    if not 0.5 < winsorize < 1:
        msg = f"{path}: winsorize: {quantile.group(1)}, expected a quantile such as 0.999"
        raise BadInput(msg)
    return Metric(name, title, text, path, winsorize)
