"""Files beside the lake that name users: reports, and notes of a training that failed."""

import re
from collections.abc import Iterator
from pathlib import Path

from markupsafe import escape

from lumos.config import Recipe
from lumos.erase.places import Users
from lumos.settings import Settings


def naming(settings: Settings, recipe: Recipe, users: Users) -> Iterator[Path]:
    """Files under ``LUMOS_HOME`` that name one of the users; all can be made again.

    Drafts of them, which a writer was killed at, are found by the same.
    """
    # So a report heads a timeline; elsewhere it tells what a check found.
    names = "|".join(re.escape(str(escape(user))) for user in users.ids)
    heading = re.compile(f"<h3>User (?:{names})</h3>")
    for path in _files(settings.home / "reports" / recipe.name):
        text = path.read_text(encoding="utf-8", errors="replace")
        if heading.search(text) or users.in_sentences.search(text):
            yield path
    for path in _files(settings.home / "train" / recipe.name):
        if "not-finite" in path.name and any(f'"{user}"' in path.read_text() for user in users.ids):
            yield path


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
