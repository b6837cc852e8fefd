"""Ragged batches as dense tensors, made late: on the device, and scaled for the model."""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from lumos.accio.window import Windows


def densify(windows: Windows, device: str | torch.device = "cpu") -> Tensor:
    """Activity of every day, history then horizon, made on the device: (N, T + F, d_u)."""
    num_days = windows.history_days + windows.horizon_days
    values = torch.from_numpy(windows.values).to(device, non_blocking=True)
    cells = torch.from_numpy(windows.cells).to(device, non_blocking=True)
    width = values.shape[1]
    dense = values.new_zeros((len(windows) * num_days, width))
    dense[cells] = values
    return dense.view(len(windows), num_days, width)


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
        weight_B: 0 for an empty slot that only fills a batch.
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
