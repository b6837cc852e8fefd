"""Publishing: whole, judged, once, and never believed without its manifest."""

import datetime as dt
import json
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from lumos.delta import open_table, predicate, read, replace
from lumos.ledger import require
from lumos.recipes import load
from lumos.serve.manifest import Checksum, TamperedScores, read_manifests
from lumos.serve.publish import publish, read_scores
from lumos.tables import table_uri, tables
from lumos.verbs import BadInput, GateRefused
from tests.conftest import RECIPE, World
from tests.serve.lake import contents, enter
from tests.serve.models import register

RECIPE_OBJECT = load(RECIPE)


def uri(world: World, name: str) -> str:
    """Where a table of this world lies."""
    return table_uri(world.settings, RECIPE_OBJECT, name)


def rows_of(world: World, name: str) -> pa.Table:
    """A table's rows."""
    rows = read(uri(world, name))
    assert rows is not None
    return rows


def published(world: World) -> pa.Table:
    """What a consumer gets on the business date."""
    return read_scores(world.settings, RECIPE_OBJECT, today=world.date)


def rewrite_forecasts(world: World, rows: pa.Table) -> None:
    """Put other forecasts in the place of the day's, and say in the ledger that they are it."""
    entry = require(world.settings, RECIPE_OBJECT, "forecasts", world.date, remedy="")
    version = replace(uri(world, "forecasts"), rows, where=predicate(as_of=world.date))
    ledger = rows_of(world, "ledger").to_pylist()
    (mine,) = [row for row in ledger if row["table"] == "forecasts"]
    mine["version"] = version
    assert entry.version != version
    changed = pa.Table.from_pylist(ledger, schema=rows_of(world, "ledger").schema)
    replace(uri(world, "ledger"), changed, where=None)


def test_published_scores_are_whole_calibrated_and_named_by_a_manifest(scored: World) -> None:
    report = scored.run("publish")

    rows = published(scored)
    (manifest,) = read_manifests(scored.settings, RECIPE_OBJECT)
    users = set(rows_of(scored, "forecasts")["user_id"].to_pylist())
    assert set(rows["user_id"].to_pylist()) == users
    assert rows.num_rows == len(users) == manifest.num_rows
    assert manifest.checksum == Checksum(RECIPE_OBJECT).add(rows).value
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


def test_forcing_it_gives_the_same_rows_and_the_same_checksum(scored: World) -> None:
    scored.run("publish")
    before = contents(scored, "scores"), contents(scored, "manifests", without=("scores_version",))

    scored.run("publish", force=True)

    assert before == (
        contents(scored, "scores"),
        contents(scored, "manifests", without=("scores_version",)),
    )


def test_a_commit_that_no_manifest_names_is_invisible(scored: World) -> None:
    scored.run("publish")
    before = published(scored)
    garbage = before.set_column(
        before.column_names.index("visit_10d"), "visit_10d", pa.array([0.5] * before.num_rows)
    )

    replace(uri(scored, "scores"), garbage.slice(0, 3), where=predicate(as_of=scored.date))

    assert published(scored) == before


def test_nothing_is_read_before_the_first_manifest(scored: World) -> None:
    with pytest.raises(BadInput, match="published are none at all"):
        published(scored)


def test_expired_scores_are_not_read(scored: World) -> None:
    scored.run("publish")
    last = scored.date + dt.timedelta(days=2)

    assert read_scores(scored.settings, RECIPE_OBJECT, today=last).num_rows
    for day in (last + dt.timedelta(days=1), scored.date - dt.timedelta(days=1)):
        with pytest.raises(BadInput, match=f"valid on {day}"):
            read_scores(scored.settings, RECIPE_OBJECT, today=day)


def test_rows_changed_under_the_manifest_fail_its_checksum(scored: World) -> None:
    scored.run("publish")
    manifest = rows_of(scored, "manifests")
    rows = published(scored)
    changed = rows.set_column(
        rows.column_names.index("visit_3d"), "visit_3d", pc.multiply(rows["visit_3d"], 0.999)
    )
    version = replace(uri(scored, "scores"), changed, where=predicate(as_of=scored.date))
    index = manifest.column_names.index("scores_version")
    forged = manifest.set_column(index, "scores_version", pa.array([version]))
    replace(uri(scored, "manifests"), forged, where=None)

    with pytest.raises(TamperedScores, match="do not use them"):
        published(scored)


def test_the_checksum_knows_the_rows_but_not_their_order() -> None:
    schema = tables(RECIPE_OBJECT)["scores"].arrow_schema(RECIPE_OBJECT)
    row = {"as_of": dt.date(2024, 5, 10), "visit_10d": 0.5, "visit_3d": 0.25, "minutes_10d": 7.0}
    row |= {"model_version": "1", "calibrator_version": "c"}
    rows = [row | {"user_id": user} for user in ("a", "bé", "c")]

    def digest(rows: list[dict[str, object]]) -> str:
        return Checksum(RECIPE_OBJECT).add(pa.Table.from_pylist(rows, schema=schema)).value

    assert digest(rows) == digest(rows[::-1])
    others = [rows[:2], [*rows[:2], rows[2] | {"minutes_10d": 7.000001}]]
    others.append([rows[0] | {"user_id": "ab"}, rows[1] | {"user_id": "é"}, rows[2]])
    assert len({digest(rows), *map(digest, others)}) == 4


def refused(world: World, match: str) -> None:
    """Publishing is refused, and nothing of it can be read."""
    with pytest.raises(GateRefused, match=match):
        world.run("publish")
    assert read_manifests(world.settings, RECIPE_OBJECT) == []
    assert read(uri(world, "scores")) is None


def test_missing_users_are_refused(scored: World) -> None:
    rows = rows_of(scored, "forecasts")
    users = sorted(set(rows["user_id"].to_pylist()))[:10]
    rewrite_forecasts(scored, rows.filter(pc.invert(pc.is_in(rows["user_id"], pa.array(users)))))

    refused(scored, "users have whole forecasts")


def test_a_user_with_half_a_horizon_counts_as_missing(scored: World) -> None:
    rows = rows_of(scored, "forecasts")
    last = pc.equal(rows["horizon_day"], pc.max(rows["horizon_day"]))
    rewrite_forecasts(scored, rows.filter(pc.invert(last)))

    refused(scored, "0 users have whole forecasts")


def test_twice_the_same_user_counts_as_missing(scored: World) -> None:
    rows = rows_of(scored, "forecasts")
    rewrite_forecasts(scored, pa.concat_tables([rows, rows]))

    refused(scored, "0 users have whole forecasts")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e6])
def test_forecasts_that_are_no_number_or_out_of_range_are_refused(
    scored: World, value: float
) -> None:
    rows = rows_of(scored, "forecasts")
    minutes = [value, *rows["mean_minutes"].to_pylist()[1:]]
    index = rows.column_names.index("mean_minutes")
    rewrite_forecasts(
        scored, rows.set_column(index, "mean_minutes", pa.array(minutes, pa.float32()))
    )

    refused(scored, "minutes_10d is no number or out of range for 1 users")


def test_a_mixture_of_two_models_is_refused(scored: World) -> None:
    rows = rows_of(scored, "forecasts")
    versions = ["2", *rows["model_version"].to_pylist()[1:]]
    index = rows.column_names.index("model_version")
    rewrite_forecasts(scored, rows.set_column(index, "model_version", pa.array(versions)))

    refused(scored, r"model versions \['1', '2'\]")


def test_forecasts_that_no_calibrator_can_mend_are_refused(scored: World) -> None:
    rows = rows_of(scored, "evaluations")
    # The middle comes true, both ends do not: no monotone map makes that right.
    outcomes = rows["visit_10d_outcome"].to_pylist()
    bent = [0.5 if outcome else (0.9, 0.1, 0.1)[n % 3] for n, outcome in enumerate(outcomes)]
    index = rows.column_names.index("visit_10d_forecast")
    replace(
        uri(scored, "evaluations"),
        rows.set_column(index, "visit_10d_forecast", pa.array(bent)),
        where=None,
    )

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
    late = [scored.date - dt.timedelta(days=RECIPE_OBJECT.horizon_days - 1)] * rows.num_rows
    index = rows.column_names.index("origin")
    unmatured = rows.set_column(index, "origin", pa.array(late, pa.date32()))
    replace(uri(scored, "evaluations"), unmatured, where=None)

    refused(scored, "calibrators are fitted on matured days only")


def test_without_an_evaluation_of_that_version_it_says_what_to_do(crowned: World) -> None:
    crowned.run("score", model=register(crowned, seed=2))

    with pytest.raises(BadInput, match=r"model version 2 has no evaluation.*lumos evaluate"):
        crowned.run("publish")


def test_an_evaluation_made_later_than_the_date_is_not_used(scored: World) -> None:
    rows = rows_of(scored, "evaluations")
    later = pa.array([scored.date + dt.timedelta(days=1)] * rows.num_rows, pa.date32())
    replace(uri(scored, "evaluations"), rows.set_column(0, "as_of", later), where=None)

    with pytest.raises(BadInput, match="no evaluation made by"):
        scored.run("publish")


def test_a_day_that_quality_refused_is_not_published(scored: World) -> None:
    enter(scored, "validate", "quality", scored.date, verdict="refused")

    with pytest.raises(BadInput, match="quality of recipe gym was refused"):
        scored.run("publish")


def test_two_publishers_at_once_leave_one_publication(scored: World) -> None:
    gate, faults = threading.Barrier(2), []

    def run() -> None:
        gate.wait()
        try:
            publish(scored.request("publish", force=True))
        except RuntimeError as fault:  # the loser of a race may be told so, and is run again
            faults.append(fault)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(faults) < 2
    assert len(read_manifests(scored.settings, RECIPE_OBJECT)) == 1
    rows = published(scored)
    assert rows.num_rows == len(set(rows["user_id"].to_pylist()))
    assert rows_of(scored, "scores").num_rows == rows.num_rows
