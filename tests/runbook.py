"""docs/runbook.md and its like, read as whoever is paged reads them."""

import re
from pathlib import Path

from lumos.settings import REPOSITORY

RUNBOOK = REPOSITORY / "docs" / "runbook.md"


def sections(path: Path = RUNBOOK) -> dict[str, str]:
    """Text by heading of the second level."""
    parts = re.split(r"^## (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks(text: str) -> list[str]:
    """Commands in blocks, a line each, in their order."""
    found = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in found for line in block.splitlines() if line.strip()]


def commands(text: str) -> list[str]:
    """What a person is told to type: blocks, and what stands in backticks and is a command."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    inline = re.findall(r"`(lumos [^`]+)`", prose)
    return blocks(text) + inline
