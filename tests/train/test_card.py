from pathlib import Path

import pytest

from lumos.config import Task
from lumos.overrides import override
from lumos.train.card import draw_losses, model_card
from tests.accio import small

HEAD = Task(name="visit_10d", kind="any", column="visited", window_days=10, has_head=True)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {"tasks": (HEAD,)},
            [
                "| encoder | causal, layers: 1 |",
                "| days a token | 7 |",
                "| positions | distance |",
                "| heads of days | visited, took_class, minutes, spend |",
                "| heads of tasks | visit_10d |",
                "| loss weights | fixed: binary 0.3, continuous 0.1, hazard 1, chance 1, amount",
                "| optimiser | Muon for matrices, AdamW |",
                "| weights kept | average of decay 0.99 |",
            ],
        ),
        (
            {
                "training.loss.weighting": "learned",
                "training.matrices": "adamw",
                "training.ema": 0.0,
            },
            [
                "| heads of tasks | none |",
                "| loss weights | learned variances (eq. 10) |",
                "| optimiser | AdamW |",
                "| weights kept | the last |",
            ],
        ),
    ],
)
def test_the_card_says_what_form_the_model_has(changes: dict[str, object], lines: list[str]):
    recipe = override(small.recipe(), changes)
    card = model_card(recipe, {"as_of": "2024-05-10", "num_parameters": 7}, {})
    for line in [*lines, "| num parameters | 7 |"]:
        assert line in card


def test_losses_are_drawn_with_and_without_validation(tmp_path: Path) -> None:
    epochs = [{"loss": 2.0, "loss_visited": 1.0}, {"loss": 1.0, "loss_visited": 0.5}]
    draw_losses(tmp_path / "plain.png", epochs)
    judged = [{**epoch, "validation/loss": 3.0} for epoch in epochs]
    draw_losses(tmp_path / "judged.png", judged)
    plain, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("plain", "judged"))
    assert plain != other
