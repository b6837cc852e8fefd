"""Files beside the lake that name users: reports, and notes of a training that failed."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import escape

from lumos.config import Recipe
from lumos.settings import Settings


def naming(settings: Settings, recipe: Recipe, users: Sequence[str]) -> Iterator[Path]:
    """Files under ``LUMOS_HOME`` that name one of the users; all can be made again."""
    # So a report heads a user's timeline; it names users nowhere else.
    names = "|".join(re.escape(str(escape(user))) for user in users)
    named = re.compile(f"<h3>User (?:{names})</h3>")
    for path in sorted((settings.home / "reports" / recipe.name).rglob("*.html")):
        if named.search(path.read_text(encoding="utf-8")):
            yield path
    for path in sorted((settings.home / "train" / recipe.name).rglob("not-finite-*.json")):
        if set(users) & set(json.loads(path.read_text()).get("users", ())):
            yield path
