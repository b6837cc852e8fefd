"""``docs/runbook.md`` as a page: its sections are where every red thing leads to."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from lumos.settings import REPOSITORY

RUNBOOK = REPOSITORY / "docs" / "runbook.md"


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def render(path: Path = RUNBOOK) -> tuple[str, tuple[tuple[str, str], ...]] | None:
    """HTML, and its sections by anchor and text; ``None`` where there is no such file.

    HTML in the text is shown, not obeyed. Links to other files of the repository become plain
    text: the server does not serve those.
    """
    if not path.is_file():
        return None
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(path.read_text(encoding="utf-8"))
    sections, seen = [], Counter[str]()
    for opened, inline in pairwise(tokens):
        if opened.type == "heading_open":
            text = "".join(
                t.content for t in inline.children or () if not t.type.endswith("e_html")
            )
            anchor = slug(text)
            seen[anchor] += 1
            if seen[anchor] > 1:
                anchor = f"{anchor}-{seen[anchor] - 1}"
            opened.attrSet("id", anchor)
            if opened.tag == "h2":
                sections.append((anchor, text))
    for token in tokens:
        _unlink(token.children or ())
    html: str = reader.renderer.render(tokens, reader.options, {})
    return html, tuple(sections)


def _unlink(tokens: list[Token] | tuple[()]) -> None:
    for token in tokens:
        target = str(token.attrGet("href") or "")
        if token.type == "link_open" and not target.startswith(("#", "http://", "https://")):
            token.attrs.pop("href")
