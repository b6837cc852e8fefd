"""What all HTML pages share: one environment for the templates, and a write that is whole."""

import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

_MINUS = "\N{MINUS SIGN}"


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill a template; whatever comes from a table is escaped, and a missing name is a fault."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figures": figures,
        "signed": signed,
        "probability": probability,
        "percent": percent,
        "day": day,
    }
    return environment.get_template(template).render(context)


def write(path: Path, page: str) -> None:
    """Whole or not at all, also when this process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def figures(value: float | None) -> str:
    """Four significant figures; a dash where there is no number."""
    return "-" if value is None else f"{value:.4g}".replace("-", _MINUS, value < 0)


def signed(value: float | None) -> str:
    """Three significant figures with a sign, so that a column of them is even."""
    if value is None:
        return "-"
    return f"{value:+#.3g}".replace("-", _MINUS, value < 0).removesuffix(".")


def probability(value: float | None) -> str:
    """A p-value; what is too small to be told apart is said to be so."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def percent(value: float | None) -> str:
    """Signed, in percent; a dash where there is no number."""
    return "-" if value is None else f"{value:+.1%}".replace("-", _MINUS)


def day(value: dt.date) -> str:
    """Short, with the weekday."""
    return f"{value:%a} {value.day} {value:%b %Y}"
