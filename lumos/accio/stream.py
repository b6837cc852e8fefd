"""One worker's part of an epoch: row groups read ahead, cut into windows, dealt to batches.

Imports no torch: a worker that only reads and cuts needs none.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lumos.accio.batch import RaggedBatch, empty_slots, ragged_batch
from lumos.accio.chance import (
    Chance,
    draw_inner_origins,
    draw_origins,
    first_origins,
    hash_users,
)
from lumos.accio.plan import Plan, plan_epoch
from lumos.accio.table import SequenceTable
from lumos.accio.users import Users
from lumos.verbs import BadInput

Keep = Callable[[Users], np.ndarray]

READ_AHEAD = 2


@dataclass(frozen=True)
class Sampling:
    """Which windows an epoch holds: ``windows_per_user`` of each user.

    Attributes:
        history_days: T, days up to the last origin.
        horizon_days: F, days after an origin that are forecast.
        first_origin: First day number that may be an origin; later for who registers later.
        last_origin: Last one; who registers after it has no window.
        windows_per_user: How many windows of a user one read gives.
        origins_per_window: M, forecast origins inside each history; the last is its end. With
            several, the last is drawn where a whole history was recorded, as far as there is
            one, and the others from what comes before it.
        days_between_origins: Origins of a window are multiples of so many days apart.
        min_history_days: Days of the window that the first of several origins sees, at least.
    """

    history_days: int
    horizon_days: int
    first_origin: int
    last_origin: int
    windows_per_user: int = 1
    origins_per_window: int = 1
    days_between_origins: int = 1
    min_history_days: int = 1

    def __post_init__(self) -> None:
        least = dict.fromkeys(
            ("history_days", "windows_per_user", "origins_per_window", "days_between_origins",
             "min_history_days"), 1,
        ) | {"horizon_days": 0}  # fmt: skip
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                msg = f"{name}={getattr(self, name)}, expected at least {minimum}"
                raise BadInput(msg)
        if self.first_origin > self.last_origin:
            msg = (
                f"first_origin={self.first_origin} is after last_origin={self.last_origin}: "
                "there is no day to forecast from"
            )
            raise BadInput(msg)


@dataclass(frozen=True)
class Stream:
    """Everything that a process needs to make its part of an epoch; it is sent to workers.

    Attributes:
        table: At its pinned version.
        sampling: Which windows.
        counts: Windows of each of the table's row groups, int64 of shape (S,).
        keep: Whom to give, from ids and registration days; everyone when ``None``.
        batch_size: Global.
        num_lanes: How many row groups an epoch mixes at any time.
        seed: Of every choice.
        rank: This process.
        world_size: Number of processes.
    """

    table: SequenceTable
    sampling: Sampling
    counts: np.ndarray
    keep: Keep | None
    batch_size: int
    num_lanes: int
    seed: int
    rank: int
    world_size: int

    def plan(self, epoch: int) -> Plan:
        """Who reads what in an epoch."""
        return plan_epoch(
            self.counts,
            seed=self.seed,
            epoch=epoch,
            batch_size=self.batch_size,
            num_lanes=self.num_lanes,
        )

    def eligible(self, users: Users) -> np.ndarray:
        """Numbers of the users that have a window."""
        has_origin = users.registered <= self.sampling.last_origin
        return np.flatnonzero(has_origin if self.keep is None else has_origin & self.keep(users))

    def parts(
        self, epoch: int, first_step: int, worker: int, num_workers: int
    ) -> Iterator[RaggedBatch]:
        """This worker's part of every step, in the order of lanes."""
        plan = self.plan(epoch)
        lanes = plan.lanes_of(self.rank, self.world_size, worker, num_workers)
        nobody = self.empty(0)
        held = dict.fromkeys(lanes, (nobody, 0))  # a piece, and how many of its windows are gone
        pieces = self._pieces(plan, plan.reads(lanes, first_step))
        for step in range(first_step, plan.num_steps):
            parts = []
            slices = plan.slices(lanes, step)
            for lane, wanted in zip(lanes, (slices[:, 1] - slices[:, 0]).tolist(), strict=True):
                while wanted:
                    piece, start = held[lane]
                    if start == len(piece):
                        # Reads come in the order in which steps and lanes ask for them.
                        piece, start = next(pieces), 0
                    stop = min(start + wanted, len(piece))
                    parts.append(piece.part(start, stop))
                    held[lane] = (piece, stop) if stop < len(piece) else (nobody, 0)
                    wanted -= stop - start
            yield RaggedBatch.concat(parts) if parts else nobody

    def _pieces(self, plan: Plan, reads: np.ndarray) -> Iterator[RaggedBatch]:
        """The pieces of the reads, some read ahead by threads (Arrow leaves Python's lock)."""
        pending: deque[Future[RaggedBatch]] = deque()
        with ThreadPoolExecutor(READ_AHEAD) as pool:
            try:
                for read in reads:
                    pending.append(pool.submit(self._piece, plan, read))
                    if len(pending) > READ_AHEAD:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _piece(self, plan: Plan, read: np.void) -> RaggedBatch:
        """The windows of some samples of a shard, in the epoch's order."""
        shard = int(read["shard"])
        users = self.table.read(shard)
        eligible = self.eligible(users)
        sampling, draws = self.sampling, self.sampling.windows_per_user
        if len(eligible) * draws != self.counts[shard]:
            msg = (
                f"{self.table.files[self.table.shards[shard]['file']].path} has {len(eligible)} "
                f"users to give, {self.counts[shard] // draws} were planned: `keep` must depend "
                "on nothing but the user, and the file must never change"
            )
            raise BadInput(msg)
        order = plan.order_within(shard, len(eligible) * draws)[read["start"] : read["stop"]]
        rows, draw = eligible[order // draws], order % draws
        return ragged_batch(
            users,
            self._origins(users, rows, draw, plan.epoch),
            sampling.history_days,
            sampling.horizon_days,
            rows=rows,
            number=plan.numbers(read),
        )

    def _origins(self, users: Users, rows: np.ndarray, draw: np.ndarray, epoch: int) -> np.ndarray:
        sampling, hashes = self.sampling, hash_users(users.user_id)[rows]
        first = first_origins(users.registered[rows], sampling.first_origin)
        chance = Chance(self.seed, epoch, draw)
        if sampling.origins_per_window == 1:
            return draw_origins(hashes, first, sampling.last_origin, chance)
        # Ends in every phase of the days between origins, though there be but one whole history.
        whole = min(
            sampling.first_origin + sampling.history_days - 1,
            sampling.last_origin - sampling.days_between_origins + 1,
        )
        last = draw_origins(hashes, np.maximum(first, whole), sampling.last_origin, chance)
        least = min(sampling.min_history_days, sampling.history_days)
        first = np.minimum(np.maximum(first, last - sampling.history_days + least), last)
        return draw_inner_origins(
            hashes,
            (first, last),
            sampling.origins_per_window,
            chance,
            sampling.days_between_origins,
        )

    def empty(self, num_slots: int) -> RaggedBatch:
        """Slots that nobody fills."""
        columns, sampling = self.table.columns, self.sampling
        return empty_slots(
            num_slots,
            pa.schema([(name, self.table.types[name]) for name in columns.static]),
            len(columns.activity),
            np.full(sampling.origins_per_window, sampling.last_origin),
            sampling.history_days,
            sampling.horizon_days,
        )
