"""Whom a verb is asked about, and in which recipes."""

import sys
from pathlib import Path

from lumos import stored
from lumos.erase.places import Users
from lumos.verbs import BadInput, Request

STDIN = "-"
_LONGEST_FILE_BYTES = 10_000_000


def asked_users(request: Request) -> Users:
    """The users of ``--user`` and ``--users-file``.

    A file, or stdin, keeps ids out of the list of processes and a shell's history.

    Raises:
        BadInput: No one is named, or the file cannot be read.
    """
    named = [*(request.options["user"] or ()), *_in_file(request.options["users_file"])]
    if not named or "" in named:
        msg = (
            f"name the users: lumos {request.verb} --users-file PATH (a user_id on each line; "
            f"{STDIN} for stdin), or --user ID"
        )
        raise BadInput(msg)
    return Users(tuple(sorted(set(named))))


def _in_file(name: str | None) -> list[str]:
    if name is None:
        return []
    where = "stdin" if name == STDIN else name
    try:
        if name == STDIN:
            data = sys.stdin.buffer.read(_LONGEST_FILE_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(_LONGEST_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        msg = f"--users-file {where} cannot be read: {reason}"
        raise BadInput(msg) from None
    if len(data) > _LONGEST_FILE_BYTES:
        msg = f"--users-file {where} is larger than {_LONGEST_FILE_BYTES:,} bytes: split it"
        raise BadInput(msg)
    # Only line ends are taken away: an id may begin or end with a space.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return [line for line in lines if line]


def asked_requests(request: Request) -> list[Request]:
    """The request itself, or with ``--all-recipes`` one for each recipe that the lake knows.

    Raises:
        BadInput: A recipe of the lake was stored by another version of LUMOS.
    """
    if not request.options["all_recipes"]:
        return [request]
    try:
        recipes = {recipe.name: recipe for recipe in stored.read_all(request.settings)}
    except stored.NotStored as error:
        raise BadInput(str(error)) from error
    recipes[request.recipe.name] = request.recipe
    return [Request(**{**dict(request), "recipe": recipes[name]}) for name in sorted(recipes)]
