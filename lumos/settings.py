"""Where this process finds its lake, its tracking server and its local folder.

The only place that reads environment variables of the project; see ``docs/operate.md``.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict

REPOSITORY = Path(__file__).resolve().parent.parent


def shipped_sql() -> Path:
    """LUMOS's own SQL: the repository's, where people edit it, or else what the wheel brought."""
    folder = REPOSITORY / "include" / "sql"
    return folder if folder.is_dir() else Path(__file__).resolve().parent / "sql"


class Settings(BaseModel):
    """Paths and addresses, all absolute, so that a task's working folder does not matter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path
    lake: str
    recipe: str
    platform: Literal["local", "aws"]
    mlflow_uri: str
    sql_root: Path
    states: str | None = None
    cloud: Path | None = None
    spark_pool: Path | None = None
    warm_verbs: Path | None = None
    actor: str = ""
    allowed_recipes: str | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read ``LUMOS_*`` and ``MLFLOW_TRACKING_URI``; every one of them has a local default.

        Raises:
            pydantic.ValidationError: ``LUMOS_PLATFORM`` is neither ``local`` nor ``aws``.
            ValueError: An address that libraries would read in different ways.
        """
        given = os.environ if environment is None else environment
        home = Path(given.get("LUMOS_HOME") or ".lumos").absolute()
        lake = plain_address(given.get("LUMOS_LAKE") or str(home / "lake"), "LUMOS_LAKE")
        states = given.get("LUMOS_STATES")
        return cls(
            home=home,
            lake=lake,
            recipe=given.get("LUMOS_RECIPE") or "complete_journey",
            platform=given.get("LUMOS_PLATFORM") or "local",  # type: ignore[arg-type]
            mlflow_uri=given.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}",
            states=plain_address(states, "LUMOS_STATES") if states else None,
            cloud=_path(given.get("LUMOS_CLOUD")),
            spark_pool=_path(given.get("LUMOS_SPARK_POOL")),
            warm_verbs=_path(given.get("LUMOS_WARM_VERBS")),
            actor=given.get("LUMOS_ACTOR") or "",
            allowed_recipes=given.get("LUMOS_ALLOWED_RECIPES"),
            sql_root=Path(given.get("LUMOS_SQL") or shipped_sql()).absolute(),
        )

    def trouble_writing(self) -> str:
        """What keeps this process from writing, with the remedy; empty if nothing does.

        Makes the folders where they are missing. A lake behind a URI is tried by its first use.
        """
        folders = {"LUMOS_HOME": self.home}
        if "://" not in self.lake:
            folders["LUMOS_LAKE"] = Path(self.lake)
        if self.states and "://" not in self.states:
            folders["LUMOS_STATES"] = Path(self.states)
        for variable, folder in folders.items():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # Rights alone do not tell: root has them all, on a read-only disk too.
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                return (
                    f"{folder} is not a folder that can be written to ({error.strerror}); "
                    f"mend it, or set {variable} to another one"
                )
        return ""


def _path(text: str | None) -> Path | None:
    return Path(text).absolute() if text else None


def plain_address(text: str, what: str) -> str:
    """A URI as it is, a path made absolute; neither ends in a slash.

    Libraries read a few characters in different ways: delta-rs decodes an escape such as ``%20``
    in a path, Hadoop keeps it in a URI, and delta-rs cannot open a folder with ``[``. So a URI of
    a local folder becomes its path, and what is left of such characters is refused.

    Args:
        text: A path or a URI.
        what: It is, for the message.

    Raises:
        ValueError: It holds one of them.
    """
    if text.startswith("file:"):
        # file:/x, file:///x and file://localhost/x
        text = "/" + unquote(urlsplit(text).path).lstrip("/")
    address = (text if "://" in text else str(Path(text).absolute())).rstrip("/")
    if found := re.search(r"%[0-9A-Fa-f]{2}|[\[\]^|\\\x00-\x1f\x7f]", address):
        msg = (
            f"{what}={address!r} holds {found[0]!r}, which the libraries that read tables do not "
            "take as a part of a name. Rename the folder, or name another one; a space is written "
            "as it is"
        )
        raise ValueError(msg)
    return address
