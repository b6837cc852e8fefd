"""From raw days to tokens: one MLP a modality, then their interaction (eq. 1-4).

Two identities make it cheap and change no result: a day's event context is embedded once for
all users that share it, and the first layer of MLP_proj, linear in the concatenation, is split
by modality, so that its static part is computed once a user and its event part once a day.

Shape suffixes: B users, T history days, F horizon days, L = T + F, U activity columns,
S static features, E distinct event rows, C event columns, D model width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumos.accio.dense import Batch
from lumos.config import ModelConfig
from lumos.model.layers import mlp


class Tokens(nn.Module):
    """Embeds history days (with what the user did) and horizon days (events alone)."""

    def __init__(
        self, config: ModelConfig, num_activity: int, num_static: int, num_events: int
    ) -> None:
        super().__init__()
        hidden = config.mlp_layers - 1
        self.widths = [config.d_user, config.d_static, config.d_event]
        self.static = mlp([num_static, *[config.d_static] * (hidden + 1)])
        self.user = mlp([num_activity, *[config.d_user] * (hidden + 1)])
        self.event = mlp([num_events, *[config.d_event] * (hidden + 1)])
        self.event_future = mlp([num_events, *[config.d_event] * hidden, config.d_model])
        self.project = mlp([sum(self.widths), *[config.d_model] * (hidden + 1)])
        # Not zero: a day before registration must differ from a day without activity.
        self.padding_U = nn.Parameter(torch.randn(num_activity))

    def history(self, batch: Batch) -> Tensor:
        """Tokens of the history days, shape (B, T, D)."""
        is_registered = batch.is_registered_BT[..., None]
        activity_BTU = torch.where(is_registered, batch.history_BTU, self.padding_U)
        num_days = activity_BTU.shape[1]
        first = self.project[0]
        assert isinstance(first, nn.Linear)
        by_user, by_static, by_event = torch.split(first.weight, self.widths, dim=1)
        static_BD = F.linear(self.static(batch.static_BS), by_static, first.bias)
        event_ED = F.linear(self.event(batch.events_EC), by_event)
        hidden_BTD = (
            F.linear(self.user(activity_BTU), by_user)
            + static_BD[:, None]
            + F.embedding(batch.event_index_BL[:, :num_days], event_ED)
        )
        tokens: Tensor = self.project[1:](hidden_BTD)
        return tokens

    def future(self, batch: Batch) -> Tensor:
        """Tokens of the horizon days, shape (B, F, D): an embedding of their own."""
        num_days = batch.history_BTU.shape[1]
        embedded_ED = self.event_future(batch.events_EC)
        return F.embedding(batch.event_index_BL[:, num_days:], embedded_ED)
