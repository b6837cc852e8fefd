"""The stages of scoring: the same rows however they overlap, and refusals that name their cause."""

import datetime as dt
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from lumos import ledger
from lumos.dates import day_number
from lumos.delta import read, replace
from lumos.overrides import override
from lumos.recipes import load
from lumos.serve.network import Network
from lumos.serve.overlap import Overlap
from lumos.serve.pipeline import fetch, forecasts, scale
from lumos.serve.score import run_shards
from lumos.tables import table_uri
from lumos.train import tracking
from lumos.verbs import BadInput
from tests.conftest import RECIPE, World
from tests.serve.lake import DATES, Member, contents, enter, members, write_sequences
from tests.serve.scoring import ROOT, parts


def test_overlapped_stages_write_what_stages_one_after_another_write(
    crowned: World, tmp_path: Path
) -> None:
    recipe = override(load(RECIPE), {"scoring.num_shards": 7, "scoring.batch_size": 16})
    other = crowned.copy(tmp_path / "other")

    for world, is_overlapped, num_cores in ((crowned, True, 3), (other, False, 1)):
        job, whole = parts(world, recipe, num_cores=num_cores)
        run_shards(job, whole, range(7), is_overlapped=is_overlapped)

    assert contents(crowned, "forecasts") == contents(other, "forecasts") != []


def test_a_part_of_a_batch_is_the_batch_of_its_users(crowned: World) -> None:
    job, whole = parts(crowned, load(RECIPE))
    users = fetch(whole, job.shards[0][0])
    batch = scale(whole, users)

    for start, stop in ((0, 5), (5, len(users)), (3, 3), (0, len(users))):
        part, alone = batch.part(start, stop), scale(whole, users.part(start, stop))
        assert torch.equal(part.history_BTU, alone.history_BTU)
        assert torch.equal(part.static_BS, alone.static_BS)
        if stop > start:
            assert torch.equal(part.activity_NU, alone.activity_NU)
            assert torch.equal(
                part.events_EC[part.event_index_BL], alone.events_EC[alone.event_index_BL]
            )


def test_a_fault_of_the_network_ends_the_run_and_keeps_what_is_committed(crowned: World) -> None:
    recipe = override(load(RECIPE), {"scoring.num_shards": 12})
    job, whole = parts(crowned, recipe)
    seen = 0

    def fails_later(batch: object) -> object:
        nonlocal seen
        seen += 1
        if seen > 8:
            raise RuntimeError("the network is broken")
        return whole.network.checkpoint.model(batch)

    network = Network(whole.network.checkpoint, fails_later, "cpu")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="the network is broken"):
        run_shards(job, type(whole)(**{**vars(whole), "network": network}), range(12))

    kept = contents(crowned, "forecasts")
    crowned.run("score", recipe=recipe)
    assert set(kept) < set(contents(crowned, "forecasts"))


def test_a_user_whose_forecast_is_no_number_is_named_and_the_shard_not_stored(
    crowned: World,
) -> None:
    broken = Member("broken", day_number(crowned.date), None, None,
                    {day_number(crowned.date): [1.0, 0.0, float("inf"), 0.0]})  # fmt: skip
    write_sequences(crowned, crowned.date, [*members(), broken])
    recipe = override(load(RECIPE), {"scoring.num_shards": 1})

    with pytest.raises(
        BadInput, match=r"1 of the \d+ users of shard 0 .*user_id broken .*`activity`"
    ):
        crowned.run("score", recipe=recipe)

    assert contents(crowned, "forecasts") == []


def test_a_date_after_the_newest_sequences_is_refused(crowned: World) -> None:
    with pytest.raises(BadInput, match=r"sequences of recipe gym is not ready for 2024.*Run"):
        crowned.run("score", date=DATES[-1] + dt.timedelta(days=1))


def _cut_calendar(world: World, last: dt.date) -> None:
    """`event_context` of the date, as if nothing after ``last`` had ever been announced."""
    recipe = load(RECIPE)
    uri = table_uri(world.settings, recipe, "event_context")
    pinned = ledger.require(world.settings, recipe, "event_context", world.date, remedy="")
    rows = read(uri, version=pinned.version)
    assert rows is not None
    is_kept = [day <= last for day in rows["day"].to_pylist()]
    version = replace(uri, rows.filter(pa.array(is_kept)), where=None)
    enter(world, "aggregate", "event_context", world.date, version=version, rows=sum(is_kept))


def test_a_calendar_that_ends_before_the_horizon_is_refused_with_both_days(crowned: World) -> None:
    ends, wanted = (crowned.date + dt.timedelta(days=n) for n in (3, load(RECIPE).horizon_days))
    _cut_calendar(crowned, ends)

    with pytest.raises(BadInput, match=rf"ends on {ends}, before the horizon does on {wanted}"):
        crowned.run("score")

    short = override(load(RECIPE), {"scoring.allow_short_calendar": True})
    assert crowned.run("score", recipe=short).metrics["num_users"]


def test_a_calendar_that_never_reached_the_horizon_is_no_reason_to_refuse(crowned: World) -> None:
    """A shop that tells of a campaign only when it begins."""
    recipe = load(RECIPE)
    uri = table_uri(crowned.settings, recipe, "event_context")
    rows = read(uri)
    assert rows is not None
    late = rows.set_column(rows.column_names.index("known_on"), "known_on", rows["day"])
    version = replace(uri, late, where=None)
    enter(crowned, "aggregate", "event_context", crowned.date, version=version)

    assert crowned.run("score").metrics["num_users"]


def test_memory_holds_one_shard_however_many_there_are(crowned: World) -> None:
    """No more than two row groups, some chunks and batches are ever ahead of the writer."""
    recipe = override(load(RECIPE), {"scoring.num_shards": 40, "scoring.batch_size": 4})
    job, whole = parts(crowned, recipe)
    num_asked = 0

    def counted(batch: object) -> object:
        nonlocal num_asked
        num_asked += 1
        return whole.network.checkpoint.model(batch)

    network = Network(whole.network.checkpoint, counted, "cpu")  # type: ignore[arg-type]
    with Overlap() as overlap:
        made = forecasts(
            type(whole)(**{**vars(whole), "network": network}),
            list(enumerate(job.shards)),
            overlap,
        )
        first = next(made)

    assert len(first) <= 6
    assert num_asked <= 2 + 2 * 2 + 1


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_a_coarser_network_says_nearly_the_same_and_leaves_the_checkpoint_alone(
    precision: str, crowned: World
) -> None:
    job, whole = parts(crowned, load(RECIPE))
    before = {
        name: value.clone() for name, value in whole.network.checkpoint.model.state_dict().items()
    }
    scoring = override(load(RECIPE), {"scoring.precision": precision}).scoring
    coarse = Network.of(whole.network.checkpoint, scoring)
    batch = scale(whole, fetch(whole, job.shards[0][0]))

    exact, rough = whole.network.answer(batch), coarse.answer(batch)

    assert 0 < np.abs(exact.p - rough.p).max() < 0.02
    after = whole.network.checkpoint.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_precision_is_another_forecast(scored: World) -> None:
    recipe = override(load(RECIPE), {"scoring.precision": "bfloat16"})

    report = scored.run("score", recipe=recipe)

    assert not report.already_done
    assert report.details["num_shards_done_before"] == 0


def test_compiling_without_a_compiler_is_refused_with_the_remedy(
    crowned: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BadInput, match=r"needs a C\+\+ compiler.*apt install g\+\+"):
        crowned.run("score", recipe=override(load(RECIPE), {"scoring.compile": True}))


_ELSEWHERE = """
import sys, numpy as np
from pathlib import Path
from lumos.train.checkpoint import load
from lumos.train.predict import forecast
from lumos.accio.contract import load_events, open_sequences
from lumos.dates import day_number
from lumos.settings import Settings
import datetime as dt
folder, day, out = sys.argv[1:]
model, settings = load(Path(folder)), Settings.from_environment()
users = open_sequences(settings, model.recipe, None).read(0)
origins = np.full(len(users), day_number(dt.date.fromisoformat(day)), np.int32)
events = load_events(settings, model.recipe, None)
np.save(out, forecast(model, users, origins, events, batch_size=64).p)
"""


def test_a_checkpoint_copied_elsewhere_forecasts_bit_for_bit_the_same(
    crowned: World, tmp_path: Path
) -> None:
    """Serving builds the network from the folder alone: no registry, no recipe module."""
    folder = tracking.checkpoint_of(crowned.settings, load(RECIPE), "1")
    copied = tmp_path / "elsewhere" / "model"
    shutil.copytree(folder, copied)
    found = []
    for number, each in enumerate((folder, copied)):
        out = tmp_path / f"{number}.npy"
        environment = {**crowned.environment, "PYTHONPATH": str(ROOT)}  # without the gym's module
        subprocess.run(
            [sys.executable, "-c", _ELSEWHERE, str(each), str(crowned.date), str(out)],
            check=True, env=environment, cwd=tmp_path,
        )  # fmt: skip
        found.append(np.load(out))

    assert found[0].size
    assert np.array_equal(found[0], found[1])
    assert "gym" in json.loads((copied / "config.json").read_text())["recipe"]["name"]
