"""Whose embedding changed suddenly, at a rate that is held whatever the day.

A change is the length of a step from the earlier embedding to today's, after the mean step of the
user's group is taken away: on the evening of a great match everybody moves, and that is told apart,
as a shift of the platform. A group has the same habits (active days of the 28 before the step) and
did the same during it (came, or did not): who plays daily moves by other lengths than who comes
once a month. A score is the change over the group's 90% quantile *of that same step*, so that a
step on which all users differ more from each other counts as no more unusual for any of them.

A user is flagged if two things hold. The p-value of the score, its rank among the scores of earlier
steps of the same model version (a conformal p-value: distribution-free if steps are alike), is at
most the rate; so on a quiet day few or none are. And the score is among that share of the highest
of its own step; so on no day whatever are there more.

Shape suffixes: N users, D width of an embedding, G groups, R scores of earlier steps.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lumos.serve.vectors import Floats

_QUANTILE = 0.9
# A group smaller than this has no quantile worth the name: it is measured by a larger one.
_SMALLEST_GROUP = 100
_LEVELS = 5  # of active days: none, 1-2, 3-6, 7-14, 15-28


def groups_of(num_active_before: np.ndarray, came: np.ndarray) -> np.ndarray:
    """Group of each user, int64 of shape (N,).

    Args:
        num_active_before: Active days in the 28 before the step, shape (N,).
        came: Whether the user was active during the step, shape (N,).
    """
    level = np.log2(1 + num_active_before).astype(np.int64)
    return np.asarray(2 * np.minimum(level, _LEVELS - 1) + came.astype(np.int64))


@dataclass(frozen=True)
class Step:
    """What is usual from one day's embeddings to another's.

    Attributes:
        shift_GD: Mean step of each group.
        scale_G: 90% quantile of the changes of each group; 0 where nobody moved.
        shift: Length of the mean step of all users, over the mean length of their steps: 0 when
            each goes his own way, 1 when all move alike.
        scores: Of all users that it was fitted on, ascending.
    """

    shift_GD: Floats
    scale_G: Floats
    shift: float
    scores: Floats

    @classmethod
    def fit(cls, step_ND: Floats, group_N: np.ndarray) -> Self:
        """Measure a sample of users, or all of them; at least one."""
        mean_D = step_ND.mean(axis=0)
        alike_G = [_alike(group_N, group) for group in range(2 * _LEVELS)]
        shift_GD = np.stack([step_ND[index].mean(axis=0) for index in alike_G])
        change_N = _lengths(step_ND - shift_GD[group_N])
        scale_G = np.array([np.quantile(change_N[i], _QUANTILE) for i in alike_G], np.float32)
        mean_length = float(_lengths(step_ND).mean())
        shift = float(np.linalg.norm(mean_D)) / mean_length if mean_length else 0.0
        return cls(shift_GD, scale_G, shift, np.sort(_over(change_N, scale_G[group_N])))

    def measure(self, step_ND: Floats, group_N: np.ndarray) -> tuple[Floats, Floats]:
        """Change and score of users, both of shape (N,)."""
        change_N = _lengths(step_ND - self.shift_GD[group_N])
        return change_N, _over(change_N, self.scale_G[group_N])

    def cutoff(self, rate: float) -> float:
        """What a score must exceed: at most ``rate`` of those that it was fitted on do."""
        most = int(rate * len(self.scores))
        return float(self.scores[len(self.scores) - 1 - most])


def _alike(group_N: np.ndarray, group: int) -> NDArray[np.int64]:
    """A group's members; if they are few, all who came or did not, as they; if those are, all."""
    for is_alike_N in (group_N == group, group_N % 2 == group % 2):
        if is_alike_N.sum() >= _SMALLEST_GROUP:
            return np.flatnonzero(is_alike_N)
    return np.arange(len(group_N))


def _lengths(vectors_ND: Floats) -> Floats:
    return np.asarray(np.linalg.norm(vectors_ND, axis=1), np.float32)


def _over(change_N: Floats, scale_N: Floats) -> Floats:
    """Nobody's score where a group does not move at all."""
    return np.divide(change_N, scale_N, out=np.zeros_like(change_N), where=scale_N > 0)


def p_values(score_N: Floats, earlier_R: Floats) -> Floats:
    """Share of scores at least as high, counting the user's own; shape (N,).

    Args:
        score_N: Of today.
        earlier_R: What is usual, ascending.
    """
    at_least = len(earlier_R) - np.searchsorted(earlier_R, score_N, side="left")
    return np.asarray((1 + at_least) / (1 + len(earlier_R)), np.float32)
