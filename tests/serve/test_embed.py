"""Embedding: everybody once, by one model, whoever kills it; and what is said of them holds."""

import datetime as dt
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lumos import ledger
from lumos.accio.contract import load_events, open_sequences
from lumos.accio.users import Users
from lumos.config import EmbeddingConfig, Recipe
from lumos.dates import day_number
from lumos.delta import open_table, predicate, read
from lumos.delta import replace as put
from lumos.overrides import override
from lumos.recipes import load
from lumos.serve import comparison
from lumos.tables import table_uri, tables
from lumos.train import checkpoint, tracking
from lumos.train.represent import day_vectors, user_vectors
from lumos.verbs import BadInput
from tests.conftest import RECIPE, World
from tests.conftest import enter as here
from tests.serve.lake import DATES, Member, contents, enter, members, write_sequences
from tests.serve.models import crown, register

TABLES = ("embeddings", "profiles", "cohorts")
NEWCOMER = Member("just registered", day_number(DATES[0]), "gold", 30.0, days={})


@pytest.fixture(scope="module")
def _embedded(_crowned: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = _crowned.copy(tmp_path_factory.mktemp("embed") / "home")
    for date in DATES:
        world.run("embed", date=date)
    return world


@pytest.fixture
def embedded(_embedded: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Two days embedded by the champion."""
    return here(_embedded.copy(tmp_path / "home"), monkeypatch)


def rows(world: World, table: str, **where: object) -> list[dict]:
    """Of a table."""
    found = read(
        table_uri(world.settings, load(RECIPE), table),
        where=predicate(**where) if where else None,  # type: ignore[arg-type]
    )
    return [] if found is None else found.to_pylist()


def everything(world: World) -> dict[str, list[str]]:
    return {name: contents(world, name) for name in TABLES}


def versions(world: World) -> dict[str, int]:
    tables = {n: open_table(table_uri(world.settings, load(RECIPE), n)) for n in TABLES}
    return {name: table.version() for name, table in tables.items() if table is not None}


def vector_of(world: World, user: str, recipe: Recipe, date: dt.date) -> np.ndarray:
    """One user's embedding, of the checkpoint and a window made for that user alone."""
    model = checkpoint.load(tracking.checkpoint_of(world.settings, recipe, "1"))
    users = Users.concat(list(open_sequences(world.settings, recipe, None).users()))
    alone = users.take(users.user_id == user)
    events = load_events(world.settings, recipe, None)
    (vectors,) = user_vectors(
        model, alone, np.array([day_number(date)]), events, [recipe.embedding], batch_size=1
    )
    return vectors[0]


def test_every_active_user_everybody_registered_and_every_day_stand_once(embedded: World) -> None:
    recipe, (date, _) = load(RECIPE), DATES
    last, within = day_number(date), recipe.scoring.active_within_days
    known = [m for m in members() if m.registered <= last]
    active = {m.user_id for m in known if any(last - within < day <= last for day in m.days)}
    first = date - dt.timedelta(days=recipe.history_days - 1)
    days = {
        str(first + dt.timedelta(days=n)) for n in range(recipe.history_days + recipe.horizon_days)
    }
    found = {
        kind: [row["id"] for row in rows(embedded, "embeddings", as_of=date, kind=kind)]
        for kind in ("user", "static", "day")
    }
    assert {kind: set(ids) for kind, ids in found.items()} == {
        "user": active,
        "static": {m.user_id for m in known},
        "day": days,
    }
    assert all(len(ids) == len(set(ids)) for ids in found.values())
    assert active < {m.user_id for m in known}


@pytest.mark.parametrize(
    ("pooling", "stage"), [("mean", "post"), ("max", "pre"), ("ema", "post"), ("ema", "pre")]
)
def test_a_stored_vector_is_the_networks_own_in_the_form_asked_for(
    crowned: World, pooling: str, stage: str
) -> None:
    recipe = override(
        load(RECIPE), {"embedding.pooling": pooling, "embedding.stage": stage, "num_buckets": 2}
    )
    crowned.run("embed", recipe=recipe)

    stored = rows(crowned, "embeddings", as_of=crowned.date, kind="user")

    assert {row["form"] for row in stored} == {recipe.embedding.form}
    for row in stored[:3]:
        alone = vector_of(crowned, row["id"], recipe, crowned.date)
        assert np.allclose(row["embedding"], alone, atol=1e-5)
        assert len(alone) == recipe.model.d_model


def test_days_before_registration_and_after_the_date_change_no_vector(crowned: World) -> None:
    recipe, last = load(RECIPE), day_number(crowned.date)
    model = checkpoint.load(tracking.checkpoint_of(crowned.settings, recipe, "1"))
    users = Users.concat(list(open_sequences(crowned.settings, recipe, None).users()))
    at = last - 35
    late = users.take((users.registered > at - 30) & (users.registered <= at - 5))
    assert len(late)
    events = load_events(crowned.settings, recipe, None)
    forms = [EmbeddingConfig(pooling=p, stage="pre") for p in ("mean", "max", "ema")]

    def vectors(some: Users, at: int) -> list[np.ndarray]:
        origins = np.full(len(some), at)
        return user_vectors(model, some, origins, events, forms, batch_size=8)

    future = tuple(np.where(late.days > at, 1e6, c).astype(np.float32) for c in late.columns)
    with_future = replace(late, columns=future)
    assert not np.array_equal(with_future.values, late.values)
    for before, after in zip(vectors(late, at), vectors(with_future, at), strict=True):
        assert np.array_equal(before, after)
    # What stands for a day before registration is learned; whatever it is, it is not pooled.
    usual = vectors(late, at)
    model.model.tokens.padding_U.data += 100
    for before, after in zip(usual, vectors(late, at), strict=True):
        assert np.array_equal(before, after)


def test_who_did_nothing_yet_has_a_static_vector_and_no_other(crowned: World) -> None:
    write_sequences(crowned, crowned.date, [*members(), NEWCOMER])
    twin = next(m for m in members() if m.plan == "gold" and m.registered <= NEWCOMER.registered)
    write_sequences(crowned, crowned.date, [*members(), replace(NEWCOMER, age=twin.age)])

    crowned.run("embed")

    theirs = rows(crowned, "embeddings", id=NEWCOMER.user_id)
    (like,) = rows(crowned, "embeddings", id=twin.user_id, kind="static")
    assert [row["kind"] for row in theirs] == ["static"]
    assert theirs[0]["last_active_on"] is None
    assert theirs[0]["num_active_days"] == 0
    assert np.allclose(theirs[0]["embedding"], like["embedding"], atol=1e-6)


def test_a_days_vector_says_what_was_known_of_it_on_the_date(embedded: World) -> None:
    recipe, (date, _) = load(RECIPE), DATES
    model = checkpoint.load(tracking.checkpoint_of(embedded.settings, recipe, "1"))
    events = load_events(embedded.settings, recipe, None)
    for row in rows(embedded, "embeddings", as_of=date, kind="day"):
        day = day_number(dt.date.fromisoformat(row["id"]))
        expected = day_vectors(model, events.window(day_number(date), day, 1))
        assert expected is not None
        assert np.allclose(row["embedding"], expected[0], atol=1e-6)


def test_active_days_are_counted_in_the_28_days_up_to_the_date(embedded: World) -> None:
    by_id = {m.user_id: m for m in members()}
    last = day_number(DATES[0])
    for row in rows(embedded, "embeddings", as_of=DATES[0], kind="static"):
        days = [day for day in by_id[row["id"]].days if day <= last]
        assert row["num_active_days"] == sum(day > last - 28 for day in days)
        assert row["last_active_on"] == dt.date(1970, 1, 1) + dt.timedelta(days=max(days))


def test_running_again_writes_nothing_and_forcing_it_gives_the_same_rows(embedded: World) -> None:
    before, old = everything(embedded), versions(embedded)

    assert embedded.run("embed", date=DATES[1]).already_done
    assert (everything(embedded), versions(embedded)) == (before, old)

    embedded.run("embed", date=DATES[1], force=True)
    assert everything(embedded) == before
    assert versions(embedded)["embeddings"] > old["embeddings"]


def test_killing_it_and_running_again_gives_the_same_rows(crowned: World, tmp_path: Path) -> None:
    whole = crowned.copy(tmp_path / "whole")
    whole.run("embed")

    process = subprocess.Popen(
        [sys.executable, "-m", "lumos", "embed", f"--date={crowned.date}"],
        env=crowned.environment,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "bucket 0 committed" in line:
            process.kill()
            break
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    half = contents(crowned, "embeddings")
    crowned.run("embed")

    assert 0 < len(half) < len(contents(whole, "embeddings"))
    assert everything(crowned) == everything(whole)
    # A bucket that was done is not done again.
    assert versions(crowned) == versions(whole)


def test_dying_before_any_commit_loses_nothing_and_does_nothing_twice(
    crowned: World, tmp_path: Path
) -> None:
    whole = crowned.copy(tmp_path / "whole")
    whole.run("embed")
    num_commits = 0
    while not ledger.find(crowned.settings, load(RECIPE), "profiles", crowned.date):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("lumos.serve.pieces.replace", dies_after_one_commit())
            try:
                crowned.run("embed")
            except KeyboardInterrupt:
                num_commits += 1
    # Days and two buckets, then two buckets of profiles; of which the last run makes one.
    assert num_commits == 4
    assert everything(crowned) == everything(whole)
    assert versions(crowned) == versions(whole)


def dies_after_one_commit() -> Callable[..., int]:
    """The real commit once; the process is gone when the next one is asked for."""
    done: list[int] = []

    def commit(*args: Any, **kwargs: Any) -> int:
        if done:
            raise KeyboardInterrupt
        done.append(put(*args, **kwargs))
        return done[0]

    return commit


def test_another_model_replaces_all_of_a_day_and_is_compared_with_nothing(embedded: World) -> None:
    crown(embedded, register(embedded, seed=2))

    report = embedded.run("embed", date=DATES[1])

    assert "model_version is 1, not 2" in report.details["compared_with"]
    assert report.metrics["num_anomalies"] == 0
    for name in ("embeddings", "profiles"):
        found = {row["model_version"] for row in rows(embedded, name, as_of=DATES[1])}
        assert found == {"2"}
    assert all(row["change"] is None for row in rows(embedded, "profiles", as_of=DATES[1]))


def test_a_new_models_cohorts_take_the_numbers_that_their_users_had(embedded: World) -> None:
    had = {row["user_id"]: row["cohort"] for row in rows(embedded, "profiles", as_of=DATES[0])}
    crown(embedded, register(embedded, seed=2))

    embedded.run("embed", date=DATES[1])

    now = {row["user_id"]: row["cohort"] for row in rows(embedded, "profiles", as_of=DATES[1])}
    both = sorted(had.keys() & now.keys())
    kept = np.mean([had[user] == now[user] for user in both])
    sizes = [
        np.bincount([cohort[user] for user in both], minlength=12) / len(both)
        for cohort in (had, now)
    ]
    assert kept > 1.5 * float(sizes[0] @ sizes[1])  # what numbers by chance would keep


def test_without_an_earlier_day_nobody_is_flagged_and_the_report_says_so(crowned: World) -> None:
    report = crowned.run("embed")

    assert "there are none" in report.details["compared_with"]
    assert report.metrics["num_compared"] == report.metrics["num_anomalies"] == 0
    assert not any(row["is_anomaly"] for row in rows(crowned, "profiles"))


def test_a_user_keeps_a_cohort_overnight_and_sizes_add_up(embedded: World) -> None:
    now, then = (
        {row["user_id"]: row["cohort"] for row in rows(embedded, "profiles", as_of=date)}
        for date in DATES
    )
    both = sorted(now.keys() & then.keys())
    assert np.mean([now[user] == then[user] for user in both]) > 0.7
    sizes = rows(embedded, "metrics", job="embed", name="cohort_users", day=DATES[1])
    assert sum(row["value"] for row in sizes) == len(then)
    assert len({row["model_version"] for row in rows(embedded, "cohorts")}) == 1


def test_cohorts_are_described_by_what_their_members_did(embedded: World) -> None:
    report = embedded.run("embed", date=DATES[1])
    last = day_number(DATES[1])
    cohort = {row["user_id"]: row["cohort"] for row in rows(embedded, "profiles", as_of=DATES[1])}
    for said in report.details["cohorts"]:
        mine = [m for m in members() if cohort.get(m.user_id) == said["cohort"]]
        days = [[v for d, v in m.days.items() if last - 28 < d <= last] for m in mine]
        assert said["users"] == len(mine)
        visits = np.mean([len(each) for each in days]) if mine else 0
        assert said["active_days"] == said["visited"] == pytest.approx(visits, abs=0.01)
        minutes = np.mean([sum(v[2] for v in each) for each in days]) if mine else 0
        assert said["minutes"] == pytest.approx(minutes, abs=0.01)


def test_a_stranger_in_ones_place_is_flagged_and_nobody_beyond_the_rate(crowned: World) -> None:
    recipe = override(load(RECIPE), {"embedding.anomaly_rate": 0.02, "embedding.stage": "pre"})
    crowned.run("embed", recipe=recipe)
    day = day_number(DATES[1])
    everyone = members()
    came = [m for m in everyone if day in m.days and len(m.days) > 20]
    odd = came[0]
    changed = replace(odd, days=odd.days | {day: [1.0, 1.0, 9000.0, 90000.0]})
    write_sequences(crowned, DATES[1], [changed if m is odd else m for m in everyone])

    report = crowned.run("embed", recipe=recipe, date=DATES[1])

    profiles = rows(crowned, "profiles", as_of=DATES[1])
    flagged = [row["user_id"] for row in profiles if row["is_anomaly"]]
    assert odd.user_id in flagged
    assert len(flagged) == report.metrics["num_anomalies"] <= 0.02 * len(profiles)
    (theirs,) = (row for row in profiles if row["user_id"] == odd.user_id)
    assert theirs["score"] == max(row["score"] for row in profiles if row["score"] is not None)
    assert report.details["compared_with"] == str(DATES[0])
    # Who came within the last 28 days has no habit yet, and nothing to compare.
    known = {m.user_id: m.registered for m in everyone}
    assert {row["user_id"] for row in profiles if row["change"] is None} == {
        row["user_id"] for row in profiles if known[row["user_id"]] > day_number(DATES[0]) - 28
    }


def test_fewer_buckets_leave_no_row_of_the_old_ones(crowned: World) -> None:
    crowned.run("embed")
    before = len(rows(crowned, "embeddings")), len(rows(crowned, "profiles"))
    assert {row["bucket"] for row in rows(crowned, "profiles")} == {0, 1}

    write_in_one_bucket(crowned, members())
    crowned.run("embed", recipe=override(load(RECIPE), {"num_buckets": 1}))

    assert {row["bucket"] for row in rows(crowned, "profiles")} == {0}
    assert (len(rows(crowned, "embeddings")), len(rows(crowned, "profiles"))) == before


def write_in_one_bucket(world: World, everyone: list[Member]) -> None:
    """As `sequences` would, were it asked for a single bucket."""
    uri = table_uri(world.settings, load(RECIPE), "sequences")
    write_sequences(world, world.date, everyone)
    found = read(uri)
    assert found is not None
    place = found.schema.get_field_index("bucket")
    found = found.set_column(place, "bucket", pa.array([0] * len(found), pa.int32()))
    version = put(uri, found, where=None, partition=("bucket",))
    enter(world, "sequences", "sequences", world.date, version=version, rows=len(found))


def test_what_was_measured_on_a_sample_is_little_changed_by_it(
    crowned: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "_SAMPLE", 1)  # the first bucket, and no other
    for date in DATES:
        crowned.run("embed", date=date)
    scores = [row["score"] for row in rows(crowned, "profiles", as_of=DATES[1])]
    known = [score for score in scores if score is not None]
    assert len(known) > 200
    assert np.mean(np.array(known) > 1) == pytest.approx(0.1, abs=0.06)


def test_the_ledger_names_all_that_was_written_and_what_from(embedded: World) -> None:
    recipe = load(RECIPE)
    for name in TABLES:
        entry = ledger.find(embedded.settings, recipe, name, DATES[1])
        assert entry is not None
        assert entry.inputs["model"] == "1"
        assert {"sequences", "event_context", "compared", "earlier"} <= set(entry.inputs)


@pytest.mark.parametrize(
    ("changes", "says"),
    [({}, "no champion yet.*lumos promote"), ({"model": "99"}, "99.*has 1")],
)
def test_without_a_model_it_says_what_to_do(
    registered: World, changes: dict[str, str], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        registered.run("embed", **changes)


def test_a_model_from_the_future_and_one_for_other_columns_are_refused(crowned: World) -> None:
    future = register(crowned, seed=3, as_of=str(DATES[1]))
    with pytest.raises(BadInput, match="was trained on days up to 2024-05-11, after"):
        crowned.run("embed", model=future)
    fields = load(RECIPE).model_dump() | {"calendar": ("monday",)}
    with pytest.raises(BadInput, match="other calendar than the recipe now has"):
        crowned.run("embed", recipe=Recipe.model_validate(fields))


def test_what_lies_on_disk_is_what_is_declared_and_no_key_repeats(embedded: World) -> None:
    recipe = load(RECIPE)
    for name in TABLES:
        found = read(table_uri(embedded.settings, recipe, name))
        assert found is not None
        declared = tables(recipe)[name]
        for field in declared.arrow_schema(recipe):
            assert str(found.schema.field(field.name).type).replace("element", "item") == str(
                field.type
            ).replace("element", "item")
            assert field.nullable or not found[field.name].null_count, field.name
        groups = found.group_by(list(declared.key)).aggregate([([], "count_all")])
        assert groups.num_rows == found.num_rows > 0


def test_a_model_that_sees_no_events_has_no_vectors_of_days(crowned: World) -> None:
    blind = register(crowned, seed=5, recipe=override(load(RECIPE), {"model.events": "none"}))
    crowned.run("embed", model=blind)
    assert {row["kind"] for row in rows(crowned, "embeddings")} == {"user", "static"}
