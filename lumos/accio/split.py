"""Who is trained on, and who is held out: a choice that workers make as well."""

from dataclasses import dataclass

import numpy as np

from lumos.accio.chance import is_held_out
from lumos.accio.users import Users


@dataclass(frozen=True)
class Split:
    """Which users are kept out of training; ``keep`` of a loader.

    Attributes:
        share: Of all users, held out.
        seed: Of the choice.
        last_origin: Who registered after it has no training origin.
    """

    share: float
    seed: int
    last_origin: int

    def __call__(self, users: Users) -> np.ndarray:
        """Whom to train on, shape (N,)."""
        return np.asarray(~is_held_out(users.user_id, self.share, self.seed))

    def is_out(self, users: Users) -> np.ndarray:
        """Who is held out and has a training origin, shape (N,)."""
        return np.asarray((users.registered <= self.last_origin) & ~self(users))
