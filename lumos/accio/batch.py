"""What passes from the loader to the model: first raw numpy, then scaled tensors."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from torch import Tensor

from lumos.accio.events import EventCalendar, EventRows
from lumos.accio.read import Users
from lumos.accio.window import Windows, cut
from lumos.config import Recipe


@dataclass(frozen=True)
class RawBatch:
    """B windows in raw units, with all that the scaler needs.

    Attributes:
        users: B users, whole; only ``user_id`` and ``static`` are used from here on.
        origins: Last day seen, day numbers, shape (B,).
        windows: Their dense windows.
        events: Event context as known on each origin.
        weight: float32; 0 for a repeat that only fills a batch, shape (B,).
    """

    users: Users
    origins: np.ndarray
    windows: Windows
    events: EventRows
    weight: np.ndarray


@dataclass(frozen=True)
class Batch:
    """B windows as the model takes them; E distinct event rows serve all of them.

    Attributes:
        history_BTU: Scaled activity, zero on days without any.
        is_registered_BT: False before the user existed.
        static_BS: Encoded static features.
        events_EC: Scaled distinct event rows.
        event_index_BL: Row of ``events_EC`` for each history day, then each horizon day.
        targets_BFU: Scaled activity of the horizon days.
        is_active_BF: The recipe's ``active`` column on the horizon days.
        weight_B: 0 for a repeat that only fills a batch.
    """

    history_BTU: Tensor
    is_registered_BT: Tensor
    static_BS: Tensor
    events_EC: Tensor
    event_index_BL: Tensor
    targets_BFU: Tensor
    is_active_BF: Tensor
    weight_B: Tensor

    def to(self, device: str) -> Self:
        """The same batch on another device."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(
            **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        )


def raw_batch(
    recipe: Recipe,
    users: Users,
    origins: np.ndarray,
    events: EventCalendar,
    weight: np.ndarray | None = None,
) -> RawBatch:
    """Cut the windows of ``users`` at ``origins`` and gather their event context."""
    spans = recipe.history_days, recipe.horizon_days
    return RawBatch(
        users=users,
        origins=origins,
        windows=cut(users, origins, *spans),
        events=events.gather(origins, *spans),
        weight=np.ones(len(users), np.float32) if weight is None else weight,
    )
