"""How many parameters each form and size of the forecaster has, beside what the paper prints.

    python -m benchmarks.parameters

Inputs are the published ones: 13 activity columns (3 binary), 32 event columns and the calendar's,
9 static features as single numbers (one-hot categories add two thousand). Each count is taken from
the built network, and for the published form checked equal to arithmetic on the dimensions that the
paper states: they give eight to ten times what it prints (SPEC: model), so its figures cannot be
those of its dimensions. Takes seconds: nothing is allocated.
"""

import json
import sys
from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table

from lumos.config import ModelConfig
from lumos.datasets.fantasy_sports import recipe
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.presets import SIZES, lumos, paper

# Millions, as printed for each published preset (SPEC: model).
PRINTED = {"small": 7.23, "medium": 12.18, "large": 16.42, "xlarge": 20.81}
NUM_STATIC = 9
HISTORY_DAYS = {"paper": 360, "lumos": 364}


def main() -> int:
    """Print the table and, last, one JSON line; 1 if a network is not what its dimensions say."""
    forms = {"paper": paper, "lumos": lumos}
    found = {
        f"{form}_{size}": counts(make(size), HISTORY_DAYS[form])
        for form, make in forms.items()
        for size in SIZES
    }
    expected = {f"paper_{size}": by_arithmetic(paper(size)) for size in SIZES}
    wrong = [name for name, count in expected.items() if found[name]["all"] != count]
    print_table(found)
    if wrong:
        Console().print(f"[red]not what their dimensions say: {', '.join(wrong)}[/red]")
    figures: dict[str, object] = {name: parts["all"] for name, parts in found.items()}
    figures["times_printed"] = {
        size: round(found[f"paper_{size}"]["all"] / 1e6 / printed, 2)
        for size, printed in PRINTED.items()
    }
    figures["results_equal"] = not wrong
    sys.stdout.write(json.dumps(figures) + "\n")
    return 1 if wrong else 0


def counts(model: ModelConfig, history_days: int) -> dict[str, int]:
    """Parameters of each part of the network, and of all of it."""
    shaped = recipe()
    config = ForecasterConfig(
        model=model,
        columns=tuple(column.name for column in shaped.activity),
        is_binary=tuple(column.kind == "binary" for column in shaped.activity),
        hazards=(),
        heads=(),
        num_static=NUM_STATIC,
        num_events=len(shaped.calendar) + len(shaped.events),
        history_days=history_days,
        horizon_days=shaped.horizon_days,
    )
    with torch.device("meta"):
        network = Forecaster(config)
    parts = {name: sum(p.numel() for p in m.parameters()) for name, m in network.named_children()}
    return parts | {"all": sum(p.numel() for p in network.parameters())}


def by_arithmetic(model: ModelConfig) -> int:
    """What the published form must have, from its dimensions alone (eq. 1-9)."""
    shaped = recipe()
    num_columns, d_model = len(shaped.activity), model.d_model
    num_events = len(shaped.calendar) + len(shaped.events)
    widths = (model.d_user, model.d_static, model.d_event)
    tokens = (
        _mlp(num_columns, model.d_user, model.d_user)
        + _mlp(NUM_STATIC, model.d_static, model.d_static)
        + _mlp(num_events, model.d_event, model.d_event)
        + _mlp(num_events, model.d_event, d_model)
        + _mlp(sum(widths), d_model, d_model)
        + num_columns  # the day before registration
    )
    positions = (HISTORY_DAYS["paper"] + shaped.horizon_days) * d_model
    attention = 4 * d_model * (d_model + 1)
    swiglu = 2 * _mlp(d_model, model.d_ff) + _mlp(model.d_ff, d_model)
    num_layers = model.num_encoder_layers + model.num_decoder_layers
    trunk = num_layers * (attention + swiglu + 4 * d_model) + 2 * 2 * d_model
    heads = num_columns * _mlp(d_model, d_model, d_model, 1)
    return tokens + positions + trunk + heads


def _mlp(*widths: int) -> int:
    """Weights and biases of linear layers of these widths, input first."""
    return sum((inner + 1) * outer for inner, outer in pairwise(widths))


def print_table(found: dict[str, dict[str, int]]) -> None:
    """Millions, for people."""
    table = Table(title="Parameters in millions: 13 columns, 32 + 13 events, 9 static")
    parts = ("tokens", "positions", "encoder", "decoder", "heads", "all")
    for column in ("preset", *parts, "printed"):
        table.add_column(column, justify="left" if column == "preset" else "right", no_wrap=True)
    for name, counted in found.items():
        printed = PRINTED.get(name.removeprefix("paper_"))
        shown = [f"{counted.get(part, 0) / 1e6:.3f}" for part in parts]
        table.add_row(name, *shown, f"{printed:.2f}" if printed else "")
    Console(width=100).print(table)


if __name__ == "__main__":
    sys.exit(main())
