"""Ragged batches as dense tensors, made late: on the device, and scaled for the model."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from torch import Tensor

from lumos.accio.window import Windows

EMPTY_ROW, PADDING_ROW = 0, 1  # of ``Batch.activity_NU``


def densify(windows: Windows, device: str | torch.device = "cpu") -> Tensor:
    """Activity of every day, history then horizon, made on the device: (N, T + F, d_u)."""
    num_days = windows.history_days + windows.horizon_days
    values = torch.from_numpy(windows.values).to(device, non_blocking=True)
    cells = torch.from_numpy(windows.cells).to(device, non_blocking=True)
    width = values.shape[1]
    dense = values.new_zeros((len(windows) * num_days, width))
    dense[cells] = values
    return dense.view(len(windows), num_days, width)


def history_rows(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """The active days of the histories, and which of them each history day is.

    Returns:
        float32 raw activity, shape (N, d_u): an empty day, a place for days before
        registration, then the active days of all histories; and the row of each history day,
        int64 of shape (B, T).
    """
    num_days = windows.history_days + windows.horizon_days
    is_past = windows.offsets < windows.history_days
    values = windows.values[is_past]
    rows = np.full(len(windows) * num_days, EMPTY_ROW, np.int64)
    rows[windows.cells[is_past]] = np.arange(len(values)) + PADDING_ROW + 1
    rows = rows.reshape(len(windows), num_days)[:, : windows.history_days]
    no_days = np.zeros((PADDING_ROW + 1, values.shape[1]), np.float32)
    return np.concatenate([no_days, values]), np.where(windows.is_registered, rows, PADDING_ROW)


@dataclass(frozen=True)
class Batch:
    """B windows of M forecast origins as the model takes them.

    What most days share is held once: N rows of activity (an empty day, a day before
    registration, then the active days), E distinct event rows.

    Attributes:
        activity_NU: Scaled activity. Row 0 is a day without any; row 1 stands for a day before
            registration, whose content the model learns.
        day_row_BT: Row of ``activity_NU`` of each history day.
        static_BS: Encoded static features.
        events_EC: Scaled distinct event rows.
        event_index_BL: Row of ``events_EC`` for each history day, then for each horizon day of
            each origin; L = T + M * F.
        origin_BM: Number of the last history day that each origin sees, ascending; T - 1 last.
        targets_BMFU: Scaled activity of the horizon days.
        is_active_BMF: The recipe's ``active`` column on them.
        is_known_BMF: Whether the day had been observed when labels were taken.
        task_targets_BMK: Scaled outcomes of the tasks that have a head.
        is_task_known_BMK: Whether they had matured when labels were taken.
        weight_BM: 0 for a slot that only fills a batch, and for an origin drawn twice.
    """

    activity_NU: Tensor
    day_row_BT: Tensor
    static_BS: Tensor
    events_EC: Tensor
    event_index_BL: Tensor
    origin_BM: Tensor
    targets_BMFU: Tensor
    is_active_BMF: Tensor
    is_known_BMF: Tensor
    task_targets_BMK: Tensor
    is_task_known_BMK: Tensor
    weight_BM: Tensor

    @property
    def history_BTU(self) -> Tensor:
        """Scaled activity of every history day."""
        return self.activity_NU[self.day_row_BT]

    @property
    def is_registered_BT(self) -> Tensor:
        """False before the user existed."""
        return self.day_row_BT != PADDING_ROW

    def part(self, start: int, stop: int) -> Self:
        """Windows ``start`` .. ``stop - 1``; rows of activity that only others have are left out.

        Rows of activity stand in the order of their windows.
        """
        rows_BT = self.day_row_BT[start:stop]
        is_active_BT = rows_BT > PADDING_ROW
        used = rows_BT[is_active_BT]
        first, last = (int(used[0]), int(used[-1])) if len(used) else (PADDING_ROW + 1, PADDING_ROW)
        shift = first - PADDING_ROW - 1
        mine = {
            field.name: getattr(self, field.name)[start:stop]
            for field in fields(self)
            if field.name not in ("activity_NU", "events_EC")
        }
        activity = [self.activity_NU[: PADDING_ROW + 1], self.activity_NU[first : last + 1]]
        return type(self)(
            **mine
            | {
                "activity_NU": torch.cat(activity),
                "day_row_BT": torch.where(is_active_BT, rows_BT - shift, rows_BT),
                "events_EC": self.events_EC,
            }
        )

    def to(self, device: str) -> Self:
        """The same batch on another device."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(
            **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        )
