"""What a day's embeddings are compared with: found once at the start, and part of the fingerprint.

Vectors of two days have something to say to each other only if the same model version made them in
the same form. That is looked up in the ledger, never guessed from what lies in the table.

Shape suffixes: N users of today, M of them with an earlier embedding, D width of an embedding.
"""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lumos import ledger
from lumos.accio.table import SequenceTable
from lumos.config import EmbeddingConfig
from lumos.dates import day_number
from lumos.model.pooling import day_weights
from lumos.serve.changes import groups_of
from lumos.serve.vectors import RECENT_DAYS, USER, Floats, Stored, Vectors
from lumos.verbs import Request

_EARLIER_DAYS = 7
_SAMPLE = 250_000


@dataclass(frozen=True)
class Run:
    """What a date's embeddings are compared with; found once, and part of the fingerprint.

    Attributes:
        request: Of the run.
        model_version: Whose embeddings they are.
        sequences: At the pinned version.
        compared: Embeddings of the same model version and form, ``compare_days`` before.
        why_not: Why there are none, for people; else empty.
        earlier: `profiles` of days before of the same version and form: what is usual.
    """

    request: Request
    model_version: str
    sequences: SequenceTable
    compared: Stored | None
    why_not: str
    earlier: tuple[ledger.Entry, ...]

    @classmethod
    def of(cls, request: Request, model_version: str, sequences: SequenceTable) -> Self:
        """Look for embeddings that today's may be compared with."""
        settings, recipe, config = request.settings, request.recipe, request.recipe.embedding
        day = request.date - dt.timedelta(days=config.compare_days)
        entry = ledger.find(settings, recipe, "embeddings", day)
        wanted = {"model_version": model_version, "form": config.form}
        run = cls(request, model_version, sequences, None, "", ())
        why_not = _differs(entry, wanted | {"num_buckets": len(run.buckets)})
        earliest = request.date - dt.timedelta(days=_EARLIER_DAYS)
        alike = wanted | {"compare_days": config.compare_days}
        earlier = [
            found
            for found in ledger.entries(settings, recipe, "profiles")
            if earliest <= found.business_date < request.date and not _differs(found, alike)
        ]
        compared = None if entry is None or why_not else Stored.of(request, entry)
        why_not = why_not and f"embeddings of {day}: {why_not}"
        return cls(request, model_version, sequences, compared, why_not, tuple(earlier))

    @property
    def config(self) -> EmbeddingConfig:
        """The recipe's."""
        return self.request.recipe.embedding

    @property
    def inputs(self) -> dict[str, int | str]:
        """For the fingerprint, beside what embeddings themselves are made from."""
        compared = {} if self.compared is None else {"compared": self.compared.version}
        earlier = [f"{entry.business_date}@{entry.version}" for entry in self.earlier]
        return {**compared, **({"earlier": " ".join(earlier)} if earlier else {})}

    @cached_property
    def buckets(self) -> dict[int, list[int]]:
        """Row groups of `sequences` by bucket, all buckets there are."""
        found: dict[int, list[int]] = {n: [] for n in range(self.request.recipe.num_buckets)}
        for group, file in enumerate(self.sequences.shards["file"].tolist()):
            bucket = int(self.sequences.files[file].partition["bucket"])
            found.setdefault(bucket, []).append(group)
        return found


def _differs(entry: ledger.Entry | None, wanted: Mapping[str, object]) -> str:
    """Why embeddings of an entry cannot be compared with today's."""
    if entry is None or entry.verdict != ledger.READY:
        return "there are none"
    said = entry.report.details
    wrong = [f"{k} is {said.get(k)}, not {v}" for k, v in wanted.items() if said.get(k) != v]
    return ", ".join(wrong)


@dataclass(frozen=True)
class Pairs:
    """Users of today, and the way that M of them went since the compared day.

    Attributes:
        now: Today's, N users.
        is_known_N: Whether there is an earlier embedding to compare with: for those who had been
            there for 28 days by then. Before, a user has no habit that a day could break.
        step_MD: From the earlier embedding to today's, over the weight of a single day in it: a
            day moves who came last month twelve times as far as who came last year.
        group_M: Their groups.
    """

    now: Vectors
    is_known_N: np.ndarray
    step_MD: Floats
    group_M: np.ndarray


def pairs(run: Run, today: Stored, bucket: int) -> Pairs | None:
    """Today's users of a bucket; ``None`` where it has none."""
    now = today.read(USER, bucket=bucket)
    if now is None:
        return None
    before = None if run.compared is None else run.compared.read(USER, bucket=bucket)
    if run.compared is None or before is None:
        nobody = np.zeros(len(now), bool)
        return Pairs(now, nobody, now.matrix_ND[nobody], np.zeros(0, np.int64))
    then = day_number(run.compared.as_of)
    place = pc.index_in(pa.array(now.ids), pa.array(before.ids))
    is_known = place.is_valid().to_numpy(zero_copy_only=False)
    is_known &= now.registered <= then - RECENT_DAYS
    before = before.take(place.filter(pa.array(is_known)).to_numpy())
    known = now.take(is_known)
    tenure = day_number(today.as_of) - known.registered + 1
    weight = day_weights(tenure, run.request.recipe.history_days, run.config)
    return Pairs(
        now=now,
        is_known_N=is_known,
        step_MD=(known.matrix_ND - before.matrix_ND) / weight[:, None],
        group_M=groups_of(before.num_active_days, known.last_active > then),
    )


def sample(run: Run, today: Stored) -> Iterator[tuple[int, Pairs]]:
    """The first buckets that hold 250,000 users: a fair sample, as a bucket is a hash."""
    num_users = 0
    for bucket in run.buckets:
        found = pairs(run, today, bucket)
        if found is not None:
            yield bucket, found
            num_users += len(found.now)
        if num_users >= _SAMPLE:
            return
