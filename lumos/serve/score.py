"""The verb ``score``: forecast the days after ``--date`` for every active user, shard by shard.

The stages of :mod:`lumos.serve.pipeline` overlap; what is here is what makes them safe to kill,
repeat and share. A shard is one Delta commit that carries, in the same commit, a transaction
naming the shard and a number that stands for everything it was made from. So a run that is killed
goes on where it was, never keeps half a shard, and never takes another model's shard for its own.

Run it under ``torchrun --nproc-per-node N -m lumos score ...`` for N processes that share the
shards: the first one decides what all of them read, and finishes when all are done.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from deltalake import DeltaTable, Transaction

from lumos import ledger
from lumos.accio.contract import load_events
from lumos.accio.table import SequenceTable
from lumos.delta import open_table, predicate, replace
from lumos.progress import progress
from lumos.serve.edits import training_period
from lumos.serve.inputs import Inputs, check_calendar, pin
from lumos.serve.network import Network
from lumos.serve.overlap import Overlap
from lumos.serve.pipeline import Pass, Shard, Threads, check_finite, forecasts, rows
from lumos.serve.ranks import Ranks
from lumos.serve.registry import CHAMPION, chosen
from lumos.serve.shards import Piece, count_shards, in_few, of_rank, pieces
from lumos.serve.versions import usable
from lumos.serve.what_if import what_if
from lumos.tables import table_uri, tables
from lumos.verbs import Report, Request, TableWritten

log = logging.getLogger(__name__)

# A report is read by people.
_MOST_NUMBERS = 50


@dataclass(frozen=True)
class Decided:
    """What all processes of a run use: resolved once, by the first.

    Attributes:
        model_version: The champion's, or ``--model``.
        pins: Table versions.
        is_done: Whether an earlier run has done it all.
    """

    model_version: str
    pins: Inputs
    is_done: bool

    @property
    def inputs(self) -> dict[str, int | str]:
        """For the ledger."""
        return {**self.pins.named, "model": self.model_version}

    def to_json(self) -> str:
        """For the other processes."""
        return json.dumps(
            {
                "model_version": self.model_version,
                "sequences": self.pins.sequences,
                "event_context": self.pins.event_context,
                "is_done": self.is_done,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Decided":
        """What :meth:`to_json` said."""
        said = json.loads(text)
        pins = Inputs(said["sequences"], said["event_context"])
        return cls(said["model_version"], pins, said["is_done"])


@dataclass(frozen=True)
class Job:
    """One day's shards, and how to know which are done.

    Attributes:
        request: Which day of which recipe.
        shards: Pieces of `sequences` of each shard.
        token: A number that changes with anything a shard is made from.
    """

    request: Request
    shards: Sequence[Sequence[Piece]]
    token: int

    @classmethod
    def of(cls, request: Request, decided: Decided, sequences: SequenceTable) -> "Job":
        """The shards of a table, and the token of what was decided."""
        num_shards = count_shards(sequences.num_users, request.recipe.scoring)
        dealt = pieces(sequences.shards["num_users"].tolist(), num_shards)
        # 60 bits of the fingerprint: Delta keeps the number as a signed 64-bit one.
        return cls(request, dealt, int(ledger.fingerprint(request, decided.inputs)[:15], 16))

    @property
    def uri(self) -> str:
        """Where `forecasts` lies."""
        return table_uri(self.request.settings, self.request.recipe, "forecasts")

    def transaction(self, shard: int) -> Transaction:
        """What a shard's commit carries."""
        return Transaction(self.transaction_name(shard), self.token)

    def transaction_name(self, shard: int) -> str:
        """One name a day and shard: days that are scored at the same time do not meet."""
        return f"lumos.score/{self.request.date}/{shard}"

    def is_done(self, table: DeltaTable | None, shard: int) -> bool:
        """Whether the newest commit of this shard was made from exactly the same things."""
        name = self.transaction_name(shard)
        return table is not None and table.transaction_version(name) == self.token

    def done(self, table: DeltaTable | None) -> set[int]:
        """Shards that need not be done again."""
        return {number for number in range(len(self.shards)) if self.is_done(table, number)}

    def store(self, number: int, shard: pa.Table) -> int:
        """Commit a shard, whole, in the place of whatever stood there; returns the version."""
        return replace(
            self.uri,
            shard,
            where=predicate(as_of=self.request.date, shard=number),
            partition=tables(self.request.recipe)["forecasts"].partition,
            transaction=self.transaction(number),
        )


def score(request: Request) -> Report:
    """Forecast with the champion, or ``--model``; resolved once and named in the report.

    With ``--what-if`` nothing of that: two answers are compared (:mod:`lumos.serve.what_if`).

    Raises:
        BadInput: No champion, tables or quality not ready, a calendar that ends early, a
            checkpoint for other columns or one that has already seen days after ``--date``, or
            forecasts that are no numbers.
    """
    ranks = Ranks.join()
    if request.options["what_if"] is not None:
        return what_if(request) if ranks.is_first else request.report()
    if not ranks.is_first:
        decided = Decided.from_json(ranks.told())
        if not decided.is_done:
            _score(request, decided, ranks)
        return request.report(already_done=decided.is_done)
    decided, done = _decide(request)
    ranks.tell(decided.to_json())
    return done or _finish(_score(request, decided, ranks), decided, ranks)


def _decide(request: Request) -> tuple[Decided, Report | None]:
    """Resolve everything once, and refuse what cannot be scored; with the report of what is done.

    Other processes hear of it only when nothing is wrong: one alone says what is.
    """
    settings, recipe, date = request.settings, request.recipe, request.date
    version = chosen(
        request,
        alias=CHAMPION,
        remedy=f"Run `lumos train`, `lumos evaluate` and `lumos promote` for {date} or earlier.",
    )
    pins = pin(request)
    ledger.require(
        settings,
        recipe,
        "quality",
        date,
        remedy=f"Run `lumos validate --date {date}` and look at its metrics.",
    )
    done = ledger.already_done(request, "forecasts", {**pins.named, "model": version})
    if done is None:
        learned = training_period(usable(request, version).info)
        events = load_events(settings, recipe, pins.event_context)
        check_calendar(recipe, date, events, learned)
    return Decided(version, pins, is_done=done is not None), done


def _score(request: Request, decided: Decided, ranks: Ranks) -> tuple[Job, int]:
    """Score this process's shards; returns the job, and how many shards of it were done before."""
    settings, recipe = request.settings, request.recipe
    sequences = decided.pins.table(request)
    job = Job.of(request, decided, sequences)
    done = set() if request.force else job.done(open_table(job.uri))
    if done:
        log.info("%d of %d shards were done before", len(done), len(job.shards))
    mine = [n for n in of_rank(len(job.shards), ranks.rank, ranks.size) if n not in done]
    network = Network.of(usable(request, decided.model_version), recipe.scoring, ranks.device)
    whole = Pass(
        recipe=recipe,
        date=request.date,
        table=sequences,
        events=load_events(settings, recipe, decided.pins.event_context),
        network=network,
        model_version=decided.model_version,
        num_cores=ranks.num_cores,
    )
    run_shards(job, whole, mine)
    ranks.is_done()
    return job, len(done)


def run_shards(job: Job, whole: Pass, mine: Sequence[int], *, is_overlapped: bool = True) -> None:
    """Forecast and commit these shards of a job.

    Args:
        job: Whose shards.
        whole: What they are made from.
        mine: Their numbers, ascending.
        is_overlapped: Whether the stages work at the same time; the rows are the same.
    """
    started, num_users = time.monotonic(), 0

    def stored(shard: Shard) -> tuple[int, int, int]:
        check_finite(whole.recipe, shard)
        table = rows(whole.recipe, whole.date, whole.model_version, shard)
        return shard.number, len(shard), job.store(shard.number, table)

    with (
        Threads(whole),
        Overlap(is_on=is_overlapped) as overlap,
        progress("scoring", len(mine)) as advance,
    ):
        made = forecasts(whole, [(number, job.shards[number]) for number in mine], overlap)
        for number, size, version in overlap.map(stored, made, ahead=1):
            num_users += size
            log.info(
                "shard %d of %d committed: %d users, version %d; %.0f users/s",
                number + 1,
                len(job.shards),
                size,
                version,
                num_users / (time.monotonic() - started),
            )
            advance()


def _finish(scored: tuple[Job, int], decided: Decided, ranks: Ranks) -> Report:
    """When all processes are done: pin one version of all shards, and enter it in the ledger."""
    ranks.wait_for_all()
    job, num_done_before = scored
    request = job.request
    written, by_shard = _pinned(job)
    report = request.report(
        tables=(written,),
        metrics={"num_users": written.rows / request.recipe.horizon_days},
        details={
            "model_version": decided.model_version,
            "num_shards": len(job.shards),
            "num_shards_done_before": num_done_before,
            # Rows by shard; of a large table, of neighbouring shards together.
            "shards": in_few([by_shard.get(n, 0) for n in range(len(job.shards))], _MOST_NUMBERS),
            "processes": ranks.size,
        },
    )
    return ledger.record(request, report, inputs=decided.inputs)


def _pinned(job: Job) -> tuple[TableWritten, Mapping[int, int]]:
    """Clear shards of an earlier, finer division; then pin a version that is wholly ours.

    Raises:
        RuntimeError: Another run has scored the same day meanwhile; a retry settles it.
    """
    num_shards = len(job.shards)
    schema = tables(job.request.recipe)["forecasts"].arrow_schema(job.request.recipe)
    for left_over in sorted(set(_rows_by_shard(job)) - set(range(num_shards))):
        job.store(left_over, schema.empty_table())
    table = DeltaTable(job.uri)
    by_shard = _rows_by_shard(job, table.version())
    mixed = [n for n in range(num_shards) if not job.is_done(table, n)]
    mixed += [n for n in by_shard if n >= num_shards]
    if mixed:
        msg = f"another run replaced shards {mixed} of {job.request.date} meanwhile"
        raise RuntimeError(msg)
    written = TableWritten(table="forecasts", version=table.version(), rows=sum(by_shard.values()))
    return written, by_shard


def _rows_by_shard(job: Job, version: int | None = None) -> dict[int, int]:
    """Rows of the day by shard, from the table's log alone."""
    table = open_table(job.uri, version)
    counted: dict[int, int] = {}
    actions = [] if table is None else pa.table(table.get_add_actions(flatten=True)).to_pylist()
    for action in actions:
        if str(action["partition.as_of"]) == str(job.request.date):
            shard = int(action["partition.shard"])
            counted[shard] = counted.get(shard, 0) + int(action["num_records"])
    return counted
