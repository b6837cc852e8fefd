"""Publishing: whole, judged, once, and never believed without its manifest."""

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lumos.delta import data_files, open_table, predicate, read, replace
from lumos.ledger import require
from lumos.overrides import override
from lumos.serve.manifest import Checksum, TamperedScores
from lumos.serve.staging import Staging
from lumos.verbs import BadInput, GateRefused
from tests.conftest import World
from tests.serve.lake import DATES, contents, enter
from tests.serve.models import register
from tests.serve.publications import GYM, consumed, manifests, rows_of, uri, with_column


def rewrite_forecasts(world: World, rows: pa.Table, date: dt.date | None = None) -> None:
    """Put other forecasts in the place of the day's, and say in the ledger that they are it."""
    date = date or world.date
    entry = require(world.settings, GYM, "forecasts", date, remedy="")
    version = replace(uri(world, "forecasts"), rows, where=predicate(as_of=date))
    assert entry.version != version
    mine = predicate(table="forecasts", business_date=date)
    row = read(uri(world, "ledger"), where=mine)
    assert row is not None
    replace(uri(world, "ledger"), with_column(row, "version", [version]), where=mine)


def test_published_scores_are_whole_calibrated_and_named_by_a_manifest(scored: World) -> None:
    report = scored.run("publish")

    rows = consumed(scored)
    (manifest,) = manifests(scored)
    users = set(rows_of(scored, "forecasts")["user_id"].to_pylist())
    assert set(rows["user_id"].to_pylist()) == users
    assert rows.num_rows == len(users) == manifest.num_rows
    assert manifest.checksum == Checksum(GYM).add(rows).value
    assert manifest.valid_until == scored.date + dt.timedelta(days=2)
    assert manifest.calibrator_version == report.details["calibrator_version"]
    stored = json.loads(Path(report.details["calibrator"]).read_text())
    assert stored["model_version"] == manifest.model_version == "1"
    assert {"sequences", "event_context", "forecasts", "model"} <= set(json.loads(manifest.inputs))
    assert all(0 <= p <= 1 for p in rows["visit_10d"].to_pylist())
    # The raw forecasts of untrained weights are far too high; the calibrated ones are not.
    outcomes = rows_of(scored, "evaluations")["minutes_10d_outcome"].to_pylist()
    assert pc.mean(rows["minutes_10d"]).as_py() == pytest.approx(
        sum(outcomes) / len(outcomes), rel=0.2
    )


def test_publishing_again_writes_nothing(scored: World) -> None:
    def everything() -> dict[str, tuple[int, list[str]]]:
        found = {}
        for name in ("scores", "manifests", "metrics", "ledger"):
            table = open_table(uri(scored, name))
            assert table is not None
            found[name] = table.version(), contents(scored, name)
        return found

    scored.run("publish")
    before = everything()

    assert scored.run("publish").already_done

    assert everything() == before


def test_forcing_the_same_scores_again_changes_nothing_that_anyone_can_see(scored: World) -> None:
    scored.run("publish")
    before = contents(scored, "scores"), contents(scored, "manifests")
    scored.run("score", force=True)

    scored.run("publish", force=True)

    assert before == (contents(scored, "scores"), contents(scored, "manifests"))


def test_a_commit_that_no_manifest_names_is_invisible(scored: World) -> None:
    scored.run("publish")
    before = consumed(scored)
    garbage = with_column(before, "visit_10d", [0.5] * before.num_rows)

    replace(uri(scored, "scores"), garbage.slice(0, 3), where=predicate(as_of=scored.date))

    assert consumed(scored) == before


def test_scores_that_a_disk_lost_are_never_announced_and_a_retry_publishes_them(
    scored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Staging.commit

    def lossy(staging: Staging) -> int:
        version = commit(staging)
        (Path(staging.uri) / staging.files[0].path).unlink()
        return version

    with monkeypatch.context() as patched:
        patched.setattr(Staging, "commit", lossy)
        with pytest.raises(TamperedScores, match="vacuumed"):
            scored.run("publish")
    assert manifests(scored) == []

    scored.run("publish")
    assert consumed(scored).num_rows == manifests(scored)[0].num_rows > 0


def refused(world: World, match: str) -> None:
    """Publishing is refused, and nothing of it can be read."""
    with pytest.raises(GateRefused, match=match):
        world.run("publish")
    assert manifests(world) == []
    scores = read(uri(world, "scores"))
    assert scores is None or not scores.num_rows
    assert not list(Path(uri(world, "scores")).rglob("*.parquet"))


def test_missing_users_are_refused(scored: World) -> None:
    rows = rows_of(scored, "forecasts")
    users = sorted(set(rows["user_id"].to_pylist()))[:10]
    rewrite_forecasts(scored, rows.filter(pc.invert(pc.is_in(rows["user_id"], pa.array(users)))))

    refused(scored, "211 active users have whole forecasts, of 221")


def test_a_user_with_half_a_horizon_counts_as_missing(scored: World) -> None:
    rows = rows_of(scored, "forecasts")
    last = pc.equal(rows["horizon_day"], pc.max(rows["horizon_day"]))
    rewrite_forecasts(scored, rows.filter(pc.invert(last)))

    refused(scored, "0 active users have whole forecasts")


def test_twice_the_same_user_is_refused(scored: World) -> None:
    rows = rows_of(scored, "forecasts")
    rewrite_forecasts(scored, pa.concat_tables([rows, rows]))

    refused(scored, "221 users stand there more than once")


def test_users_that_are_not_active_are_refused_however_many_are_there(scored: World) -> None:
    rows = rows_of(scored, "forecasts")
    stranger = rows.slice(0, GYM.horizon_days)
    assert len(set(stranger["user_id"].to_pylist())) == 1
    stranger = with_column(stranger, "user_id", ["nobody knows"] * stranger.num_rows)
    rewrite_forecasts(scored, pa.concat_tables([rows, stranger]))

    refused(scored, "nothing was published: 1 users have a score and are not active$")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e6])
def test_forecasts_that_are_no_number_or_out_of_range_are_refused(
    scored: World, value: float
) -> None:
    rows = rows_of(scored, "forecasts")
    minutes = [value, *rows["mean_minutes"].to_pylist()[1:]]
    rewrite_forecasts(scored, with_column(rows, "mean_minutes", minutes))

    refused(scored, "1 users have a minutes_10d that is no number or out of range")


def test_a_mixture_of_two_models_is_refused(scored: World) -> None:
    rows = rows_of(scored, "forecasts")
    versions = ["2", *rows["model_version"].to_pylist()[1:]]
    rewrite_forecasts(scored, with_column(rows, "model_version", versions))

    refused(scored, r"model versions \['1', '2'\]")


def test_forecasts_that_no_calibrator_can_mend_are_refused(scored: World) -> None:
    rows = rows_of(scored, "evaluations")
    # The middle comes true, both ends do not: no monotone map makes that right.
    outcomes = rows["visit_10d_outcome"].to_pylist()
    bent = [0.5 if outcome else (0.9, 0.1, 0.1)[n % 3] for n, outcome in enumerate(outcomes)]
    changed = with_column(rows, "visit_10d_forecast", bent)
    replace(uri(scored, "evaluations"), changed, where=None)

    refused(scored, "visit_10d is off by")

    verdicts = {
        row["name"]: row["verdict"]
        for row in rows_of(scored, "metrics").to_pylist()
        if row["job"] == "publish"
    }
    assert verdicts["visit_10d.calibration_error"] == "critical"
    assert verdicts["coverage"] == "ok"


def test_labels_that_had_not_matured_are_refused(scored: World) -> None:
    rows = rows_of(scored, "evaluations")
    late = [scored.date - dt.timedelta(days=GYM.horizon_days - 1)] * rows.num_rows
    replace(uri(scored, "evaluations"), with_column(rows, "origin", late), where=None)

    refused(scored, "calibrators are fitted on matured days only")


def test_without_an_evaluation_of_that_version_it_says_what_to_do(crowned: World) -> None:
    crowned.run("score", model=register(crowned, seed=2))

    with pytest.raises(BadInput, match=r"model version 2 has no evaluation.*lumos evaluate"):
        crowned.run("publish")


def test_an_evaluation_made_later_than_the_date_is_not_used(scored: World) -> None:
    rows = rows_of(scored, "evaluations")
    later = [scored.date + dt.timedelta(days=1)] * rows.num_rows
    replace(uri(scored, "evaluations"), with_column(rows, "as_of", later), where=None)

    with pytest.raises(BadInput, match="no evaluation made by"):
        scored.run("publish")


def test_a_day_that_quality_refused_is_not_published(scored: World) -> None:
    enter(scored, "validate", "quality", scored.date, verdict="refused")

    with pytest.raises(BadInput, match="quality of recipe gym was refused"):
        scored.run("publish")


def test_the_next_day_is_measured_against_the_last_publications(scored: World) -> None:
    scored.run("publish")
    scored.run("score", date=DATES[1])

    measured = scored.run("publish", date=DATES[1]).metrics

    assert measured["volume_change"] == pytest.approx(219 / 221 - 1)
    # Weights drawn by chance say the same of everybody.
    assert [measured[f"{task.name}.drift"] for task in GYM.tasks] == [0, 0, 0]


def test_scores_that_drifted_are_refused_and_yesterdays_stay(scored: World) -> None:
    scored.run("publish")
    scored.run("score", date=DATES[1])
    rows = read(uri(scored, "forecasts"), where=predicate(as_of=DATES[1]))
    assert rows is not None
    more = pc.multiply(rows["mean_minutes"], pa.scalar(4, pa.float32()))
    rewrite_forecasts(scored, with_column(rows, "mean_minutes", more.to_pylist()), DATES[1])

    with pytest.raises(GateRefused, match=r"minutes_10d is unlike the last publications.*--set"):
        scored.run("publish", date=DATES[1])

    assert [manifest.as_of for manifest in manifests(scored)] == [DATES[0]]
    assert consumed(scored, DATES[1])["as_of"].to_pylist()[0] == DATES[0]
    real = override(GYM, {"publishing.max_drift": 1.0})
    scored.run("publish", date=DATES[1], recipe=real)
    assert consumed(scored, DATES[1])["as_of"].to_pylist()[0] == DATES[1]


def test_a_day_with_two_fifths_of_the_usual_users_is_refused(scored: World) -> None:
    scored.run("publish")
    sequences = rows_of(scored, "sequences").sort_by("user_id")
    few = sequences.slice(0, sequences.num_rows * 2 // 5)
    version = replace(uri(scored, "sequences"), few, where=None)
    enter(scored, "sequences", "sequences", DATES[1], version=version, rows=few.num_rows)
    scored.run("score", date=DATES[1])

    with pytest.raises(GateRefused, match=r"84 users have a score, 38% of the usual 221 \("):
        scored.run("publish", date=DATES[1])

    assert [manifest.as_of for manifest in manifests(scored)] == [DATES[0]]


def test_numbers_that_never_repeat_are_written_without_a_dictionary(scored: World) -> None:
    scored.run("publish")
    for name, number, text in (
        ("forecasts", "p_visited", "user_id"),
        ("scores", "visit_10d", "user_id"),
    ):
        place = Path(uri(scored, name))
        for file in data_files(open_table(str(place))):
            group = pq.read_metadata(place / file.path).row_group(0)
            columns = [group.column(at) for at in range(group.num_columns)]
            is_dictionary = {c.path_in_schema: c.has_dictionary_page for c in columns}
            assert not is_dictionary[number]
            assert is_dictionary[text]
