"""The forecaster: a user's days and the known calendar in, the next days' activity out.

Shape suffixes: B users, M forecast origins, F horizon days, Q = M x F, T history days,
U activity columns, A columns asked about by an ``any`` task with a head, K tasks with a head,
D model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lumos.accio.dense import Batch
from lumos.config import Config, ModelConfig, Recipe
from lumos.model.decoder import Decoder
from lumos.model.encoder import Encoder
from lumos.model.heads import Heads
from lumos.model.positions import AddedPositions, is_added
from lumos.model.tokens import Tokens


class HeadConfig(Config):
    """A task with a head of its own.

    Attributes:
        name: The task's.
        window_days: It is asked of the states of so many horizon days.
        is_binary: Whether the answer is a chance.
        is_median: Whether it is the median of an amount.
        hazard: Number, among the hazards, of the column of an ``any`` task.
    """

    name: str
    window_days: int
    is_binary: bool
    is_median: bool
    hazard: int | None


class ForecasterConfig(Config):
    """All that is needed to build the network again: its form, and the widths of its inputs.

    ``hazards`` names the activity columns whose first day above zero is forecast as well.
    """

    model: ModelConfig
    columns: tuple[str, ...]
    is_binary: tuple[bool, ...]
    hazards: tuple[str, ...]
    heads: tuple[HeadConfig, ...]
    num_static: int
    num_events: int
    history_days: int
    horizon_days: int

    @classmethod
    def of(cls, recipe: Recipe, *, num_static: int, num_events: int) -> "ForecasterConfig":
        """The configuration for a recipe, given the widths of the scaler's encodings."""
        tasks = [task for task in recipe.tasks if task.has_head]
        hazards = tuple(
            dict.fromkeys(t.column for t in tasks if t.kind == "any" and t.column is not None)
        )
        return cls(
            model=recipe.model,
            columns=tuple(column.name for column in recipe.activity),
            is_binary=tuple(column.kind == "binary" for column in recipe.activity),
            hazards=hazards,
            heads=tuple(
                HeadConfig(
                    name=task.name,
                    window_days=task.window_days,
                    is_binary=task.is_binary,
                    is_median=task.is_median,
                    hazard=hazards.index(task.column) if task.column in hazards else None,
                )
                for task in tasks
            ),
            num_static=num_static,
            num_events=num_events,
            history_days=recipe.history_days,
            horizon_days=recipe.horizon_days,
        )


@dataclass(frozen=True)
class Forecast:
    """What the network says at each origin, in scaled units.

    Attributes:
        outputs_BMFU: One scalar a day and activity column, in the recipe's order: the logit of
            P(column is 1), or E[value | active] over the column's scale.
        hazards_BMFA: Logit of P(first 1 of the horizon on this day | none before).
        heads_BMK: A task's own answer: a logit, or an amount over the task's scale.
        config: Says which is which.
    """

    outputs_BMFU: Tensor
    hazards_BMFA: Tensor
    heads_BMK: Tensor
    config: ForecasterConfig

    @property
    def binary_logits(self) -> Tensor:
        """Logits of the binary columns, shape (B, M, F, num_binary)."""
        return self._columns(wanted=True)

    @property
    def given_continuous(self) -> Tensor:
        """Scaled E[value | active] of the continuous columns, (B, M, F, num_continuous)."""
        return self._columns(wanted=False)

    def answers(self) -> dict[str, Tensor]:
        """What each task's head says, shape (B, M): a chance, or a scaled amount.

        The chance of an ``any`` task is the mean of its head's and of what the hazards of its
        days add up to: 1 - prod(1 - hazard).
        """
        found = {}
        for number, head in enumerate(self.config.heads):
            answer = self.heads_BMK[..., number].float()
            if head.is_binary:
                answer = answer.sigmoid()
            if head.hazard is not None:
                logits = self.hazards_BMFA[..., : head.window_days, head.hazard].float()
                # log(1 - sigmoid(x)) = -softplus(x)
                survival = torch.exp(-nn.functional.softplus(logits).sum(-1))
                answer = (answer + 1 - survival) / 2
            found[head.name] = answer
        return found

    def _columns(self, *, wanted: bool) -> Tensor:
        index = [n for n, is_binary in enumerate(self.config.is_binary) if is_binary is wanted]
        return self.outputs_BMFU[..., index]


class Forecaster(nn.Module):
    """Encoder over the history, cross-attention decoder over the horizons of all origins."""

    def __init__(self, config: ForecasterConfig) -> None:
        super().__init__()
        self.config = config
        model, spans = config.model, (config.history_days, config.horizon_days)
        num_columns = len(config.is_binary)
        self.tokens = Tokens(model, num_columns, config.num_static, config.num_events)
        self.positions = (
            AddedPositions(model.positions, sum(spans), model.d_model) if is_added(model) else None
        )
        self.encoder = Encoder(model, config.history_days)
        self.decoder = Decoder(model, *spans)
        num_day_heads = num_columns + len(config.hazards)
        self.heads = Heads(model.d_model, num_day_heads, model.head_layers)
        self.task_heads = Heads(model.d_model, len(config.heads)) if config.heads else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.tokens.padding_U.device

    def forward(self, batch: Batch) -> Forecast:
        """Forecast every horizon day of every origin."""
        num_users, num_origins = batch.origin_BM.shape
        ahead = torch.arange(1, self.config.horizon_days + 1, device=batch.origin_BM.device)
        day_BQ = (batch.origin_BM[..., None] + ahead).flatten(1)
        memory_BTD, future_BQD = self.encode(self.tokens.history(batch)), self.tokens.future(batch)
        if self.positions is not None:
            future_BQD = future_BQD + nn.functional.embedding(day_BQ, self.positions.vectors())
        states_BQD = self.decoder(future_BQD, memory_BTD, batch.origin_BM, day_BQ)
        said = self.heads(states_BQD.flatten(0, 1)[None])
        said = said.reshape(num_users, num_origins, len(ahead), said.shape[-1])
        num_columns = len(self.config.is_binary)
        return Forecast(
            outputs_BMFU=said[..., :num_columns],
            hazards_BMFA=said[..., num_columns:],
            heads_BMK=self._ask_tasks(states_BQD, num_origins),
            config=self.config,
        )

    def encode(self, days_BTD: Tensor) -> Tensor:
        """The encoded history, shape (B, T, D), of its days' tokens."""
        if self.positions is not None:
            days_BTD = days_BTD + self.positions.vectors()[: self.config.history_days]
        memory_BTD: Tensor = self.encoder(days_BTD)
        return memory_BTD

    def _ask_tasks(self, states_BQD: Tensor, num_origins: int) -> Tensor:
        """Each task of the mean state of its window's days, shape (B, M, K)."""
        num_users, _, width = states_BQD.shape
        if self.task_heads is None:
            return states_BQD.new_zeros(num_users, num_origins, 0)
        size = num_users * num_origins, self.config.horizon_days, width
        states_NFD = states_BQD.reshape(size)  # -1 would be ambiguous in an empty batch
        pooled = [states_NFD[:, : head.window_days].mean(1) for head in self.config.heads]
        said: Tensor = self.task_heads(torch.stack(pooled))
        return said.reshape(num_users, num_origins, len(pooled))
