"""The loss on people who are not trained on: the same windows after every epoch.

Only early stopping asks for it. The users are held out, the origins lie in the training period
(what comes after it stays unseen until the very end), and both are chosen by hash: all epochs,
resumed runs and numbers of processes judge by the same windows.

Shape suffixes: N terms of the loss.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from lumos.accio.batch import RaggedBatch, ragged_batch
from lumos.accio.chance import Chance, draw_origins, first_origins, hash_users, uniform
from lumos.accio.users import Users
from lumos.dates import day_number
from lumos.model.loss import Objective
from lumos.train.distributed import World
from lumos.train.prepare import Prepared

VALIDATION = "validation/loss"
_DRAWS = 4  # windows a user
_EPOCH = (1 << 32) + 1  # one that no training reaches, and no other validation uses
_SAMPLE = 11  # salt of this stream of chance; accio.chance names the others


class Holdout:
    """This process's share of the windows that early stopping judges by."""

    def __init__(self, prepared: Prepared, world: World) -> None:
        """Read the users once; they stay in memory, ragged."""
        self._prepared, self._world = prepared, world
        parts = [self._chosen(users) for users in prepared.table.users()]
        self._users = Users.concat([part for part in parts if len(part)] or parts[:1])

    def _chosen(self, users: Users) -> Users:
        prepared, training = self._prepared, self._prepared.recipe.training
        users = users.take(prepared.split.is_out(users))
        hashes = hash_users(users.user_id)
        share = training.max_validation_users / max(prepared.num_held_out, 1)
        is_mine = hashes % np.uint64(self._world.size) == np.uint64(self._world.rank)
        return users.take((uniform(hashes, _SAMPLE, training.seed) < share) & is_mine)

    def _batches(self) -> Iterator[RaggedBatch]:
        recipe, (first, last) = self._prepared.recipe, self._prepared.origins.training
        size, users = recipe.scoring.batch_size, self._users
        hashes = hash_users(users.user_id)
        earliest = first_origins(users.registered, day_number(first))
        for draw in range(_DRAWS):
            chance = Chance(recipe.training.seed, _EPOCH, draw)
            origins = draw_origins(hashes, earliest, day_number(last), chance)
            for start in range(0, len(users), size):
                chunk = np.arange(start, min(start + size, len(users)))
                spans = recipe.history_days, recipe.horizon_days
                yield ragged_batch(users.take(chunk), origins[chunk], *spans)

    @torch.no_grad()
    def loss(self, objective: Objective) -> float:
        """The objective, without dropout; the same on all processes."""
        prepared, world = self._prepared, self._world
        was_training = objective.training
        objective.eval()
        num_terms = len(objective.terms)
        sums_N, counts_N, log_variance_N = torch.zeros(
            (3, num_terms), dtype=torch.float64, device=world.device
        )
        has_users = torch.zeros(1, dtype=torch.float64, device=world.device)
        for ragged in self._batches():
            batch = prepared.scaler.batch(
                ragged,
                prepared.events,
                prepared.recipe,
                last_label=day_number(prepared.origins.last_label),
                device=world.device,
            )
            with world.autocast():
                batch_sums_N, batch_log_variance_N = objective(batch)
            sums_N += batch_sums_N
            counts_N += objective.counts(batch)
            log_variance_N.copy_(batch_log_variance_N)
            has_users.fill_(1)
        objective.train(was_training)
        # A process without a single user has seen no variance.
        shared = world.sum(torch.cat([sums_N, counts_N, log_variance_N, has_users]))
        sums_N, counts_N, log_variance_N = shared[:-1].chunk(3)
        means_N = sums_N / counts_N.clamp(min=1)
        return float(objective.total(means_N, log_variance_N / shared[-1], counts_N > 0))


def best_epoch(epochs: Sequence[Mapping[str, float]]) -> int:
    """Number of the epoch with the smallest validation loss, the first of equals."""
    losses = np.array([epoch[VALIDATION] for epoch in epochs])
    return int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))


def is_enough(epochs: Sequence[Mapping[str, float]], patience: int) -> bool:
    """Whether the last ``patience`` epochs brought nothing better; never with patience 0."""
    return bool(patience and epochs and len(epochs) - 1 - best_epoch(epochs) >= patience)
