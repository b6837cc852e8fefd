"""What consumers may rely on: one live publication a date, and never a row but its own."""

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from lumos.delta import predicate, read, replace, rewrite
from lumos.overrides import override
from lumos.serve.manifest import (
    Checksum,
    Manifest,
    TamperedScores,
    published,
    read_scores,
    rows_of,
    valid_manifest,
)
from lumos.serve.publish import publish
from lumos.serve.staging import Overtaken, claimed
from lumos.settings import REPOSITORY
from lumos.tables import tables
from lumos.verbs import BadInput, GateRefused
from tests.conftest import World
from tests.serve.lake import DATES, enter
from tests.serve.publications import (
    GYM,
    consumed,
    manifests,
    rewrite_manifests,
    states,
    uri,
    with_column,
)

DAY = dt.timedelta(days=1)
SHORTER = override(GYM, {"publishing.valid_days": 1})
LONGER = override(GYM, {"publishing.valid_days": 3})


def files(world: World) -> set[str]:
    """Names of all score files that lie there, committed or not."""
    return {path.name for path in Path(uri(world, "scores")).rglob("*.parquet")}


def test_nothing_is_read_before_the_first_manifest(scored: World) -> None:
    with pytest.raises(BadInput, match="published are none at all"):
        consumed(scored)


def test_expired_scores_are_not_read(scored: World) -> None:
    scored.run("publish")
    last = scored.date + 2 * DAY

    assert consumed(scored, last).num_rows
    with pytest.raises(BadInput, match=rf"valid on {last + DAY}.*\(valid until {last}\)"):
        consumed(scored, last + DAY)


def test_the_parts_of_a_publication_are_its_rows(scored: World) -> None:
    scored.run("publish")

    manifest = valid_manifest(scored.settings, GYM, today=scored.date)
    parts = list(published(scored.settings, GYM, manifest))

    assert len(parts) == GYM.scoring.num_shards > 1
    assert pa.concat_tables(parts).sort_by("user_id") == consumed(scored)


def test_rows_changed_under_the_manifest_fail_its_checksum_and_force_mends_it(
    scored: World,
) -> None:
    scored.run("publish")
    rows, (manifest,) = consumed(scored), manifests(scored)
    changed = with_column(rows, "visit_3d", [x * 0.999 for x in rows["visit_3d"].to_pylist()])
    version = replace(uri(scored, "scores"), changed, where=predicate(as_of=scored.date))
    forged = Manifest.model_validate({**manifest.model_dump(), "scores_version": version})
    rewrite_manifests(scored, [forged])

    with pytest.raises(TamperedScores, match="do not use them"):
        consumed(scored)

    scored.run("publish", force=True)
    assert consumed(scored) == rows


def test_a_publication_whose_files_are_gone_is_refused_with_the_remedy(scored: World) -> None:
    scored.run("publish")
    next(iter(Path(uri(scored, "scores")).rglob("*.parquet"))).unlink()

    with pytest.raises(TamperedScores, match=r"vacuumed.*lumos publish --date 2024-05-10 --force"):
        consumed(scored)


def test_the_checksum_knows_the_rows_but_neither_their_order_nor_their_parts() -> None:
    schema = tables(GYM)["scores"].arrow_schema(GYM)
    row = {name: 0.25 for name in schema.names}
    row |= {"as_of": dt.date(2024, 5, 10), "model_version": "1", "calibrator_version": "c"}
    rows = [row | {"user_id": user} for user in ("a", "bé", "c")]

    def digest(*parts: list[dict]) -> str:
        found = Checksum(GYM)
        for part in parts:
            found.add(pa.Table.from_pylist(part, schema=schema))
        return found.value

    whole = digest(rows)
    assert whole == digest(rows[::-1]) == digest(rows[2:], rows[:2])
    others = [
        rows[:2],
        [*rows, rows[0]],
        [*rows[:2], rows[2] | {"minutes_10d": 0.2500001}],
        [rows[0] | {"user_id": "bé"}, rows[1] | {"user_id": "a"} | {"visit_3d": 0.5}, rows[2]],
        [rows[0] | {"visit_10d": 0.5}, *rows[1:]],
    ]
    assert len({whole, *map(digest, others)}) == 6


def test_taking_it_back_brings_the_publication_before_it_of_the_same_date(scored: World) -> None:
    scored.run("publish", recipe=SHORTER)
    scored.run("publish")
    before = consumed(scored)
    scored.run("publish", recipe=LONGER)
    assert states(scored) == ["superseded", "superseded", "live"]

    report = scored.run("retract", reason="wrong validity")

    assert states(scored) == ["superseded", "live", "retracted"]
    assert manifests(scored)[-1].reason == "wrong validity"
    assert report.details["reason"] == "wrong validity"
    assert consumed(scored) == before
    assert valid_manifest(scored.settings, GYM, today=scored.date).valid_until == DATES[0] + 2 * DAY


def test_taking_it_back_twice_is_taking_it_back_once(scored: World) -> None:
    scored.run("publish")
    scored.run("publish", recipe=LONGER)
    scored.run("retract")
    before = manifests(scored)

    assert scored.run("retract", reason="again").already_done

    assert manifests(scored) == before
    audited = read(uri(scored, "audit"), columns=["verb", "what", "why"])
    assert audited is not None
    what = f"scores of {scored.date}, version {before[1].scores_version}, retracted"
    assert audited.to_pylist() == [{"verb": "retract", "what": what, "why": "no reason given"}]
    scored.run("retract", version=before[0].scores_version)
    assert states(scored) == ["retracted", "retracted"]


def test_when_a_date_is_taken_back_readers_get_the_day_before_while_it_is_valid(
    scored: World,
) -> None:
    scored.run("publish")
    yesterday = consumed(scored)
    scored.run("score", date=DATES[1])
    scored.run("publish", date=DATES[1])
    assert consumed(scored, DATES[1]) != yesterday

    scored.run("retract", date=DATES[1])

    assert consumed(scored, DATES[1]) == yesterday
    with pytest.raises(BadInput, match=r"2024-05-11 \(retracted: no reason given\)"):
        read_scores(scored.settings, GYM, as_of=DATES[1], today=DATES[1])
    with pytest.raises(BadInput, match="valid on"):
        consumed(scored, DATES[0] + 3 * DAY)


def test_what_was_taken_back_is_published_again_only_by_force(scored: World) -> None:
    scored.run("publish")
    before = consumed(scored)
    scored.run("retract", reason="not now")

    with pytest.raises(GateRefused, match=r"taken back \(not now\).*--force"):
        scored.run("publish")
    with pytest.raises(BadInput, match="retracted: not now"):
        consumed(scored)

    scored.run("publish", force=True)
    assert states(scored) == ["retracted", "live"]
    assert consumed(scored) == before


def test_what_was_never_published_cannot_be_taken_back(scored: World) -> None:
    with pytest.raises(BadInput, match="never published for recipe gym; there are no publ"):
        scored.run("retract")
    scored.run("publish")
    with pytest.raises(BadInput, match=r"version 77 of .* there are version \d+ \(live\)"):
        scored.run("retract", version=77)


@pytest.mark.parametrize("field", ["as_of", "created"])
def test_a_manifest_of_the_future_is_neither_read_nor_built_upon(scored: World, field: str) -> None:
    scored.run("publish")
    (honest,) = manifests(scored)
    ahead = {
        **honest.model_dump(),
        "as_of": DATES[1],
        "scores_version": honest.scores_version + 1,
        "valid_until": dt.date(2999, 1, 3),
        field: {"as_of": dt.date(2999, 1, 1), "created": dt.datetime(2999, 1, 1, tzinfo=dt.UTC)}[
            field
        ],
    }
    rewrite_manifests(scored, [honest, Manifest.model_validate(ahead)])

    assert valid_manifest(scored.settings, GYM, today=DATES[1]) == honest
    with pytest.raises(BadInput, match="of the future"):
        valid_manifest(scored.settings, GYM, as_of=ahead["as_of"], today=DATES[1])
    with pytest.raises(BadInput, match=rf"of the future.*lumos retract --date {ahead['as_of']}"):
        scored.run("publish", force=True)

    scored.run("retract", date=ahead["as_of"])
    scored.run("publish", force=True)


def test_a_day_that_is_not_over_is_not_published(scored: World) -> None:
    request = scored.request("publish")
    # An hour at the end of the day, which may pass while this runs, is no part of it.
    today = (dt.datetime.now(ZoneInfo(GYM.timezone)) + dt.timedelta(hours=1)).date()
    for table in ("forecasts", "quality"):
        enter(scored, "score", table, today)

    with pytest.raises(BadInput, match="is not over in Asia/Kolkata"):
        publish(type(request).model_validate({**request.model_dump(), "date": today}))


def test_a_publisher_that_was_overtaken_is_told_so_and_leaves_nothing(scored: World) -> None:
    with claimed(scored.request("publish")) as slow:
        slow.write(0, [])
        (mine,) = files(scored)
        scored.run("publish")
        before = files(scored)
        with pytest.raises(Overtaken, match="another publisher took over"):
            slow.commit()

    assert mine not in before
    assert states(scored) == ["live"]
    assert consumed(scored).num_rows == manifests(scored)[0].num_rows
    assert files(scored) == before


def test_a_publisher_that_announces_late_does_not_replace_a_newer_publication(
    scored: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "lumos.serve.publish.published"

    def slow(*given: Any) -> Iterator[pa.Table]:
        """Committed, but not yet announced, when another one publishes."""
        monkeypatch.setattr(place, published)
        scored.run("publish", recipe=LONGER)
        return published(*given)

    monkeypatch.setattr(place, slow)
    scored.run("publish")

    assert states(scored) == ["superseded", "live"]
    assert valid_manifest(scored.settings, GYM, today=scored.date).valid_until == DATES[0] + 3 * DAY


def test_files_that_a_dead_publisher_left_go_with_the_next_one(scored: World) -> None:
    scored.run("publish")
    scored.run("publish", recipe=LONGER)
    folder = Path(uri(scored, "scores")) / f"as_of={scored.date}"
    (folder / "part-00000-dead.zstd.parquet").write_bytes(b"half a file")
    before = consumed(scored)

    scored.run("publish", recipe=SHORTER)

    assert "part-00000-dead.zstd.parquet" not in files(scored)
    assert states(scored) == ["superseded", "superseded", "live"]
    for manifest in manifests(scored):
        assert rows_of(scored.settings, GYM, manifest) == before


def test_a_change_of_manifests_is_asked_again_when_another_came_between(scored: World) -> None:
    scored.run("publish")
    seen = []

    def change(rows: pa.Table) -> pa.Table:
        seen.append(rows["state"].to_pylist())
        if len(seen) == 1:
            scored.run("retract")
        return rows

    rewrite(uri(scored, "manifests"), tables(GYM)["manifests"].arrow_schema(GYM), change)

    assert seen == [["live"], ["retracted"]]
    assert states(scored) == ["retracted"]


def start(world: World, *arguments: str) -> subprocess.Popen[str]:
    """``lumos publish`` as a process of its own."""
    command = [sys.executable, "-m", "lumos", "publish", "--date", str(world.date), *arguments]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=world.environment, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_that_publish_at_once_leave_one_publication(scored: World) -> None:
    both = [start(scored, "--force") for _ in range(2)]
    said = [process.communicate()[1] for process in both]

    codes = [process.returncode for process in both]
    assert 0 in codes
    for code, text in zip(codes, said, strict=True):
        assert code == 0 or (code == 1 and "another publisher took over" in text), text
    assert states(scored).count("live") == 1
    rows = consumed(scored)
    assert rows.num_rows == len(set(rows["user_id"].to_pylist())) > 200


def seen(world: World) -> pa.Table | None:
    """What a consumer sees at this very moment."""
    try:
        return consumed(world)
    except BadInput:
        return None


@pytest.mark.parametrize("sign", ["as_of=*/*.parquet", "_delta_log/*2.json"])
def test_a_publisher_killed_while_it_stages_or_commits_is_seen_whole_or_not_at_all(
    scored: World, tmp_path: Path, sign: str
) -> None:
    quiet = scored.copy(tmp_path / "quiet")
    quiet.run("publish")
    undisturbed = consumed(quiet)
    deadline = time.monotonic() + 120
    process = start(scored)
    while not list(Path(uri(scored, "scores")).glob(sign)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)  # or this would keep a core from the publisher
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    assert seen(scored) in (None, undisturbed)
    scored.run("publish")

    assert consumed(scored) == undisturbed
    assert states(scored) == ["live"]
    committed = {manifest.scores_version for manifest in manifests(scored)}
    assert len(committed) == 1
