"""Cut dense windows out of ragged users: what a forecast may see, and what it is judged by."""

from dataclasses import dataclass

import numpy as np

from lumos.accio.read import Users


@dataclass(frozen=True)
class Windows:
    """Windows of N users, each around its own origin (the last day seen).

    Attributes:
        history: float32 raw activity of the T days up to the origin, shape (N, T, d_u).
        is_registered: False on days before the user existed, shape (N, T).
        targets: float32 raw activity of the F days after the origin, shape (N, F, d_u).
    """

    history: np.ndarray
    is_registered: np.ndarray
    targets: np.ndarray


def cut(users: Users, origins: np.ndarray, history_days: int, horizon_days: int) -> Windows:
    """One window a user; a day without activity is a row of zeros.

    Nothing after the origin reaches ``history`` or ``is_registered``.

    Args:
        users: N users.
        origins: Day numbers, shape (N,).
        history_days: T.
        horizon_days: F.
    """
    num_days = history_days + horizon_days
    first = np.asarray(origins, np.int64) - history_days + 1
    user = np.repeat(np.arange(len(users)), np.diff(users.splits))
    offset = users.days - first[user]
    is_inside = (offset >= 0) & (offset < num_days)
    span = np.zeros((len(users), num_days, users.values.shape[1]), np.float32)
    span[user[is_inside], offset[is_inside]] = users.values[is_inside]
    days = first[:, None] + np.arange(history_days)
    return Windows(
        history=span[:, :history_days],
        is_registered=days >= users.registered[:, None],
        targets=span[:, history_days:],
    )
