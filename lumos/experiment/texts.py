"""Files that people write: UTF-8, with or without the mark that some editors put before it."""

from pathlib import Path

from lumos.verbs import BadInput


def read_text(path: Path) -> str:
    """The text of a declaration, a SELECT or a list, without a byte order mark.

    Raises:
        BadInput: It is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8"
        raise BadInput(msg) from error
