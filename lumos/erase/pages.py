"""Files beside the lake that name users: reports, notes of a training that failed, and exports."""

import json
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
    heading = re.compile(f"<h3>User (?:{_any(map(str, map(escape, users.ids)))})</h3>")
    for path in _files(settings.home / "reports" / recipe.name):
        text = _text(path)
        if heading.search(text) or users.in_sentences.search(text):
            yield path
    listed = re.compile(f"(?:{_any(_as_json(users))})")
    for path in _files(settings.home / "train" / recipe.name):
        if "not-finite" in path.name and listed.search(_text(path)):
            yield path


def exports_folder(settings: Settings, recipe: Recipe) -> Path:
    """Where ``export-user`` writes, unless it is told otherwise."""
    return settings.home / "exports" / recipe.name


def exports(settings: Settings, recipe: Recipe, users: Users) -> Iterator[Path]:
    """Files of earlier exports that name one of the users, and of those that were killed."""
    folder = exports_folder(settings, recipe)
    bare = (form[1:-1] for form in _as_json(users))
    # As a word: in a row's value, in JSON within it, in a sentence or on a page.
    words = re.compile(rf"(?<!\w)(?:{_any({*bare, *map(str, map(escape, users.ids))})})(?!\w)")
    for each in (folder, *folder.parent.glob(f".{folder.name}-*")):
        yield from (path for path in _files(each) if words.search(_text(path)))


def _as_json(users: Users) -> set[str]:
    """The ids as values in JSON, also in JSON that is such a value itself."""
    once = {form for one in users.ids for form in (json.dumps(one), f'"{one}"')}
    return once | {json.dumps(form[1:-1]) for form in once}


def _any(forms: Iterator[str] | set[str]) -> str:
    return "|".join(sorted(map(re.escape, forms)))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
