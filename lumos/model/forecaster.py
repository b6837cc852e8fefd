"""The forecaster: a user's days and the known calendar in, the next days' activity out.

Shape suffixes: B users, T history days, F horizon days, U activity columns, D model width.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from lumos.accio.dense import Batch
from lumos.config import Config, ModelConfig, Recipe
from lumos.model.decoder import Decoder
from lumos.model.encoder import Encoder
from lumos.model.heads import Heads
from lumos.model.positions import LearnedPositions
from lumos.model.tokens import Tokens


class ForecasterConfig(Config):
    """All that is needed to build the network again: its widths and those of its inputs."""

    model: ModelConfig
    is_binary: tuple[bool, ...]
    num_static: int
    num_events: int
    history_days: int
    horizon_days: int

    @classmethod
    def of(cls, recipe: Recipe, *, num_static: int, num_events: int) -> "ForecasterConfig":
        """The configuration for a recipe, given the widths of the scaler's encodings."""
        return cls(
            model=recipe.model,
            is_binary=tuple(column.kind == "binary" for column in recipe.activity),
            num_static=num_static,
            num_events=num_events,
            history_days=recipe.history_days,
            horizon_days=recipe.horizon_days,
        )


@dataclass(frozen=True)
class Forecast:
    """What the network says of each horizon day, in scaled units.

    Attributes:
        outputs_BFU: One scalar an activity column, in the recipe's order: the logit of
            P(column is 1), or E[value | active] over the column's scale.
        is_binary: Which columns are binary, U of them.
    """

    outputs_BFU: Tensor
    is_binary: tuple[bool, ...]

    @property
    def binary_logits(self) -> Tensor:
        """Logits of the binary columns, shape (B, F, num_binary)."""
        return self._columns(wanted=True)

    @property
    def given_continuous(self) -> Tensor:
        """Scaled E[value | active] of the continuous columns, (B, F, num_continuous)."""
        return self._columns(wanted=False)

    def _columns(self, *, wanted: bool) -> Tensor:
        index = [n for n, is_binary in enumerate(self.is_binary) if is_binary is wanted]
        return self.outputs_BFU[..., index]


class Forecaster(nn.Module):
    """Encoder over the history, cross-attention decoder over the horizon, one head a column."""

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        self.config = config
        num_columns = len(config.is_binary)
        self.tokens = Tokens(config.model, num_columns, config.num_static, config.num_events)
        self.positions = LearnedPositions(
            config.history_days, config.horizon_days, config.model.d_model
        )
        self.encoder = Encoder(config.model)
        self.decoder = Decoder(config.model)
        self.heads = Heads(config.model.d_model, num_columns)

    def forward(self, batch: Batch) -> Forecast:
        """Forecast every horizon day of every window."""
        history_BTD = self.positions.add_to_history(self.tokens.history(batch))
        future_BFD = self.positions.add_to_future(self.tokens.future(batch))
        states_BFD = self.decoder(future_BFD, self.encoder(history_BTD))
        return Forecast(self.heads(states_BFD), self.config.is_binary)
