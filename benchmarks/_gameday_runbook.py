"""What docs/runbook.md says to do, read as whoever is paged reads it."""

import re

from lumos.settings import REPOSITORY


class NotInTheRunbook(Exception):
    """A step was wanted that the runbook's section does not have."""


def sections() -> dict[str, str]:
    """The runbook's text by heading of the second level."""
    text = (REPOSITORY / "docs" / "runbook.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands(section: str) -> list[str]:
    """What a section says to type: lines of its blocks, and commands in backticks."""
    text = sections()[section]
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return lines + [code for code in re.findall(r"`([^`]+)`", prose) if " " in code]
