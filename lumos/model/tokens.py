"""From raw days to tokens: one MLP a modality, then their interaction (eq. 1-4).

Identities make it cheap and change no result: a day's event context is embedded once for all
users that share it; a day without activity, or before registration, once for all such days;
and the first layer of MLP_proj, linear in the concatenation, is split by modality, so that its
static part is computed once a user, its event part once a day, and its activity part once an
active day.

Shape suffixes: B users, T history days, Q horizon days of all origins, N rows of activity,
U activity columns, S static features, E distinct event rows, C event columns, D model width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumos.accio.dense import PADDING_ROW, Batch
from lumos.config import ModelConfig
from lumos.model.layers import mlp


class Tokens(nn.Module):
    """Embeds history days (with what the user did) and horizon days (events alone)."""

    def __init__(
        self, config: ModelConfig, num_activity: int, num_static: int, num_events: int
    ) -> None:
        super().__init__()
        hidden = config.mlp_layers - 1
        self.sees_past = config.events in ("full", "no_future")
        self.sees_future = config.events in ("full", "no_past")
        self.is_shared = config.future_embedding == "shared"
        self.widths = [config.d_user, config.d_static, config.d_event]
        self.static = mlp([num_static, *[config.d_static] * (hidden + 1)])
        self.user = mlp([num_activity, *[config.d_user] * (hidden + 1)])
        if self.sees_past or (self.sees_future and self.is_shared):
            self.event = mlp([num_events, *[config.d_event] * (hidden + 1)])
        if not self.sees_future:
            self.future_token_D = nn.Parameter(torch.randn(config.d_model))
        elif self.is_shared:
            self.event_future = mlp([config.d_event, config.d_model])
        else:
            self.event_future = mlp([num_events, *[config.d_event] * hidden, config.d_model])
        self.project = mlp([sum(self.widths), *[config.d_model] * (hidden + 1)])
        # Not zero: a day before registration must differ from a day without activity.
        self.padding_U = nn.Parameter(torch.randn(num_activity))

    def history(self, batch: Batch) -> Tensor:
        """Tokens of the history days, shape (B, T, D)."""
        is_padding = torch.arange(len(batch.activity_NU), device=self.padding_U.device)
        activity_NU = torch.where(
            (is_padding == PADDING_ROW)[:, None], self.padding_U, batch.activity_NU
        )
        num_days = batch.day_row_BT.shape[1]
        first = self.project[0]
        assert isinstance(first, nn.Linear)
        by_user, by_static, by_event = torch.split(first.weight, self.widths, dim=1)
        static_BD = F.linear(self.static(batch.static_BS), by_static, first.bias)
        activity_ND = F.linear(self.user(activity_NU), by_user)
        hidden_BTD = F.embedding(batch.day_row_BT, activity_ND)
        hidden_BTD += static_BD[:, None]
        if self.sees_past:
            event_ED = F.linear(self.event(batch.events_EC), by_event)
            hidden_BTD += F.embedding(batch.event_index_BL[:, :num_days], event_ED)
        tokens: Tensor = self.project[1:](hidden_BTD)
        return tokens

    def future(self, batch: Batch) -> Tensor:
        """Tokens of the horizon days, shape (B, Q, D): of events alone."""
        index_BQ = batch.event_index_BL[:, batch.day_row_BT.shape[1] :]
        if not self.sees_future:
            return self.future_token_D.expand(*index_BQ.shape, -1)
        events = self.event(batch.events_EC) if self.is_shared else batch.events_EC
        return F.embedding(index_BQ, self.event_future(events))

    def context(self, events_EC: Tensor) -> Tensor | None:
        """Days by their event context alone, shape (E, d_event); ``None`` if none is ever seen.

        By the history's embedding, of days to come too, so that all can be compared; a network
        that sees no events of the past has that of the future only, which is D wide.
        """
        if hasattr(self, "event"):
            embedded: Tensor = self.event(events_EC)
            return embedded
        if not self.sees_future:
            return None
        ahead: Tensor = self.event_future(events_EC)
        return ahead
