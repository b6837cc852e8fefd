"""The loader: reads what the plan says, one file after another, and cuts the windows.

At most the files that a batch spans are in memory: the plan orders users by file.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lumos.accio.batch import RawBatch, raw_batch
from lumos.accio.events import EventCalendar
from lumos.accio.plan import Plan, draw_origins, first_origins, hash_users, is_held_out
from lumos.accio.read import SequenceFile, Users, read_index, read_users
from lumos.config import Recipe


@dataclass(frozen=True)
class OriginRange:
    """Training origins allowed: day numbers ``first .. last``, both included."""

    first: int
    last: int


@dataclass(frozen=True)
class Corpus:
    """The users of a table at a pinned version, split once for the whole run.

    Attributes:
        files: In canonical order.
        training: For each file the rows to train on.
        held_out: For each file the rows kept out of training that have an origin in range.
        num_late: Users who registered after the last training origin; they have no window.
    """

    files: Sequence[SequenceFile]
    training: Sequence[np.ndarray]
    held_out: Sequence[np.ndarray]
    num_late: int

    @property
    def num_training(self) -> int:
        """Users to train on."""
        return sum(len(rows) for rows in self.training)

    @property
    def num_held_out(self) -> int:
        """Users kept out of training."""
        return sum(len(rows) for rows in self.held_out)


def split_users(
    files: Sequence[SequenceFile], origins: OriginRange, *, share: float, seed: int
) -> Corpus:
    """Read every file's ids and registration days, and split its rows."""
    training, held_out, num_late = [], [], 0
    for file in files:
        user_id, registered = read_index(file)
        has_origin = first_origins(registered, origins.first) <= origins.last
        is_out = is_held_out(user_id, share, seed)
        training.append(np.flatnonzero(has_origin & ~is_out))
        held_out.append(np.flatnonzero(has_origin & is_out))
        num_late += int((~has_origin).sum())
    return Corpus(files, training, held_out, num_late)


def read_steps(
    files: Sequence[SequenceFile], plan: Plan, recipe: Recipe, *, start_step: int = 0
) -> Iterator[tuple[Users, np.ndarray]]:
    """The users of each step from ``start_step`` on, with their weights."""
    held: dict[int, Users] = {}
    for step in range(start_step, plan.num_steps):
        needed = np.unique(plan.file[step])
        held = {
            number: held[number] if number in held else read_users(files[number], recipe)
            for number in needed.tolist()
        }
        slots = [np.flatnonzero(plan.file[step] == number) for number in held]
        parts = [
            held[number].take(plan.row[step][slot])
            for number, slot in zip(held, slots, strict=True)
        ]
        yield Users.concat(parts), plan.weight[step][np.concatenate(slots)]


@dataclass(frozen=True)
class TrainingWindows:
    """One window a user and epoch, at an origin drawn by hashing: the epoch's raw batches."""

    corpus: Corpus
    recipe: Recipe
    events: EventCalendar
    origins: OriginRange

    def batches(self, plan: Plan, epoch: int, *, start_step: int = 0) -> Iterator[RawBatch]:
        """Raw batches of one rank, from ``start_step`` on."""
        steps = read_steps(self.corpus.files, plan, self.recipe, start_step=start_step)
        for users, weight in steps:
            origins = draw_origins(
                hash_users(users.user_id),
                first_origins(users.registered, self.origins.first),
                self.origins.last,
                seed=self.recipe.training.seed,
                epoch=epoch,
            )
            yield raw_batch(self.recipe, users, origins, self.events, weight)
