"""What people read about a trained model: the card in markdown, and two plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lumos.config import Recipe
from lumos.train.holdout import VALIDATION
from lumos.train.validate import SPLITS, Judged

_NUM_BINS = 10
_TERM = "loss_"


def model_card(recipe: Recipe, info: Mapping[str, Any], metrics: Mapping[str, float | None]) -> str:
    """The card: what the model is for, what it was made from, how good it is, what it is not."""
    lines = [
        f"# lumos_{recipe.name}, as of {info['as_of']}",
        "",
        f"{recipe.description}. Forecasts each of the next {recipe.horizon_days} days from the "
        f"{recipe.history_days} days before and the calendar as known on the last of them.",
        "",
        "| made from | |",
        "| --- | --- |",
        *(f"| {key.replace('_', ' ')} | {_plain(value)} |" for key, value in info.items()),
        "",
        "| form | |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in _form(recipe).items()),
        "",
        "| measure | held-out users, training period | all users, after it |",
        "| --- | --- | --- |",
    ]
    user, time = SPLITS
    names = [name.removeprefix(f"{user}/") for name in metrics if name.startswith(f"{user}/")]
    for name in names:
        cells = [metrics.get(f"{split}/{name}") for split in (user, time)]
        shown = ["-" if cell is None else f"{cell:.4f}" for cell in cells]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    lines += [
        "",
        "Columns are judged per day, tasks over their window. A continuous column is forecast as "
        f"P({recipe.active}) x E[value | {recipe.active}]; its head alone is the second factor. "
        "Days are taken as independent given the forecast when a task joins them. Probabilities "
        "are not calibrated here: `lumos publish` does that.",
        "",
    ]
    return "\n".join(lines)


def _form(recipe: Recipe) -> dict[str, str]:
    """What the network is like, and what it was trained to make smaller."""
    model, training = recipe.model, recipe.training
    groups = training.loss.model_dump(exclude={"weighting"})
    shares = ", ".join(f"{group} {weight:g}" for group, weight in groups.items())
    is_learned = training.loss.weighting == "learned"
    heads = [task.name for task in recipe.tasks if task.has_head]
    return {
        "width": f"{model.d_model}, {model.num_heads} attention heads, {model.d_ff} inside",
        "encoder": f"{model.encoder}, layers: {model.num_encoder_layers}",
        "days a token": str(model.patch_days),
        "decoder": f"cross-attention alone, layers: {model.num_decoder_layers}",
        "positions": model.positions,
        "events": f"{model.events}, future embedding {model.future_embedding}",
        "heads of days": ", ".join(column.name for column in recipe.activity),
        "heads of tasks": ", ".join(heads) or "none",
        "loss weights": "learned variances (eq. 10)" if is_learned else f"fixed: {shares}",
        "optimiser": "AdamW" if training.matrices == "adamw" else "Muon for matrices, AdamW",
        "weights kept": f"average of decay {training.ema:g}" if training.ema else "the last",
    }


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(item) for item in value)
    return str(value)


def draw_losses(path: Path, epochs: Sequence[Mapping[str, float]]) -> None:
    """By epoch: the objective in training and validation, and each term against its first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    whole, terms = figure.subplots(1, 2)
    number = np.arange(1, len(epochs) + 1)
    curves = {"loss": "training", VALIDATION: "held-out users"}
    for key, label in curves.items():
        if key in epochs[-1]:
            whole.plot(number, [epoch[key] for epoch in epochs], marker="o", label=label)
    whole.set(title="Objective", xlabel="epoch", ylabel="loss")
    whole.legend()
    for key in (key for key in epochs[-1] if key.startswith(_TERM)):
        loss = np.array([epoch[key] for epoch in epochs])
        terms.plot(number, loss / max(loss[0], 1e-12), label=key.removeprefix(_TERM))
    terms.set(title="Each term, first epoch = 1", xlabel="epoch")
    terms.legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=110)


def draw_calibration(path: Path, judged: Judged, recipe: Recipe) -> None:
    """How often it happened against how likely it was said to be, per day, by decile."""
    from matplotlib.figure import Figure

    names = [column.name for column in recipe.activity]
    figure = Figure(figsize=(3.2 * len(recipe.binary), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(recipe.binary)))
    for number, (panel, name) in enumerate(zip(panels, recipe.binary, strict=True)):
        p = judged.forecasts.p[..., number].ravel()
        outcome = judged.targets[..., names.index(name)].ravel() > 0
        bins = [part for part in np.array_split(np.argsort(p, kind="stable"), _NUM_BINS)]
        said = [float(p[part].mean()) for part in bins if len(part)]
        came = [float(outcome[part].mean()) for part in bins if len(part)]
        top = max([*said, *came, 1e-6])
        panel.plot([0, top], [0, top], color="grey", linewidth=1)
        panel.plot(said, came, marker="o")
        panel.set(title=name, xlabel="forecast", ylabel="came true")
    figure.savefig(path, dpi=110)
