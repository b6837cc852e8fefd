"""Every store serves exactly what was published, whole, from one moment on."""

import datetime as dt
import itertools
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from lumos.config import Recipe, RedisStore
from lumos.overrides import override
from lumos.recipes import load
from lumos.serve.export import Pace, edition_of, open_store
from lumos.serve.manifest import read_scores, valid_manifest
from lumos.serve.stores.contract import Row, Store, StoreFailed
from lumos.verbs import BadInput, GateRefused
from tests.conftest import RECIPE, World, enter
from tests.serve.stores import (
    PASSWORD,
    Served,
    dynamodb_store,
    free_port,
    parquet_store,
    redis_store,
)

KINDS = ("redis", "dynamodb", "parquet")
# So many that one can be in between.
PUT = 20


def recipe_with(served: Served, **changes: object) -> Recipe:
    """The gym's recipe with this store; its world is of a year long gone."""
    config = served.config.model_dump() | changes
    return override(load(RECIPE), {"publishing.stores": [config], "publishing.valid_days": 100_000})


@pytest.fixture(scope="module")
def _published(_scored: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = _scored.copy(tmp_path_factory.mktemp("export") / "home")
    world.run("publish", recipe=override(load(RECIPE), {"publishing.valid_days": 100_000}))
    return world


@pytest.fixture
def world(_published: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return enter(_published.copy(tmp_path / "home"), monkeypatch)


@pytest.fixture
def served(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    with ExitStack() as stack:
        if request.param == "redis":
            yield stack.enter_context(redis_store(monkeypatch))
        elif request.param == "dynamodb":
            yield stack.enter_context(dynamodb_store(monkeypatch))
        else:
            yield stack.enter_context(parquet_store(tmp_path / "handed over"))


every_store = pytest.mark.parametrize("served", KINDS, indirect=True)
on_redis = pytest.mark.parametrize("served", ["redis"], indirect=True)


def store_of(recipe: Recipe) -> Store:
    (config,) = recipe.publishing.stores
    return open_store(config, recipe.name)


def as_consumers_read(store: Store, users: list[str]) -> dict[str, dict[str, float]]:
    pointer = store.pointer()
    return store.get(pointer.edition, users) if pointer else {}


def as_published(world: World, recipe: Recipe, date: dt.date | None = None) -> dict:
    rows = read_scores(world.settings, recipe, date or world.date)
    about = ("as_of", "user_id", "model_version", "calibrator_version")
    return {
        row["user_id"]: {name: cell for name, cell in row.items() if name not in about}
        for row in rows.to_pylist()
    }


def put_little(
    monkeypatch: pytest.MonkeyPatch, store: Store, dies_after: int | None = None
) -> None:
    """Let the store be given few rows at a time, and the exporter die between two of them."""
    kind, count = type(store), itertools.count(1)
    monkeypatch.setattr(kind, "rows_a_put", PUT)
    put = kind.put

    def dying(self: Store, *arguments: object) -> None:
        if dies_after is not None and next(count) > dies_after:
            raise KeyboardInterrupt
        put(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "put", dying)


@every_store
def test_consumers_read_exactly_what_was_published_and_again_changes_nothing(
    world: World, served: Served
) -> None:
    recipe = recipe_with(served)

    report = world.run("export", recipe=recipe)

    store, expected = store_of(recipe), as_published(world, recipe)
    assert as_consumers_read(store, list(expected)) == expected
    assert report.metrics["fast.num_rows_sent"] == len(expected) > 100
    pointer = store.pointer()
    assert pointer is not None
    manifest = valid_manifest(world.settings, recipe, world.date)
    assert pointer.edition == edition_of(manifest)
    assert (pointer.num_rows, pointer.checksum) == (manifest.num_rows, manifest.checksum)
    again = world.run("export", recipe=recipe)
    assert again.already_done
    assert again.metrics["fast.num_rows_sent"] == 0


@every_store
def test_an_export_that_died_goes_on_where_it_was_and_nobody_reads_a_half(
    world: World, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_with(served)
    store = store_of(recipe)
    with monkeypatch.context() as patched:
        put_little(patched, store, dies_after=3)
        with pytest.raises(KeyboardInterrupt):
            world.run("export", recipe=recipe)
    assert store.pointer() is None

    put_little(monkeypatch, store)
    report = world.run("export", recipe=recipe)

    expected = as_published(world, recipe)
    assert report.metrics["fast.num_rows_sent"] == len(expected) - 3 * PUT
    assert as_consumers_read(store, list(expected)) == expected


@every_store
def test_what_does_not_read_back_right_is_not_served_until_written_anew(
    world: World, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_with(served)
    store, expected = store_of(recipe), as_published(world, recipe)
    edition = edition_of(valid_manifest(world.settings, recipe, world.date))
    with monkeypatch.context() as patched:
        put_little(patched, store, dies_after=len(expected) // PUT)
        with pytest.raises(KeyboardInterrupt):
            world.run("export", recipe=recipe)
        patched.undo()
    lost = min(store.get(edition, list(expected)))
    put_little(monkeypatch, store)
    before = store.count(edition)
    served.lose(edition, lost)
    assert store.count(edition) < before
    if served.config.kind == "parquet":  # a part that is missing is simply written again
        world.run("export", recipe=recipe)
        assert as_consumers_read(store, list(expected)) == expected
        return

    with pytest.raises(GateRefused, match=r"holds \d+ of \d+ rows .* --force"):
        world.run("export", recipe=recipe)
    assert store.pointer() is None

    world.run("export", recipe=recipe, force=True)
    assert as_consumers_read(store, list(expected)) == expected


@on_redis
def test_a_store_that_holds_other_numbers_than_it_was_given_is_not_served_from(
    world: World, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_with(served)
    store = store_of(recipe)
    put = type(store).put

    def rounded(self: Store, edition: str, start: int, rows: list[Row], end: dt.datetime) -> None:
        kept = [(user, {name: round(x, 3) for name, x in row.items()}) for user, row in rows]
        put(self, edition, start, kept, end)

    monkeypatch.setattr(type(store), "put", rounded)
    with pytest.raises(GateRefused, match=r"holds (\d+) of \1 rows .* that were read back differ"):
        world.run("export", recipe=recipe)

    assert store.pointer() is None


@on_redis
def test_a_later_day_is_served_until_it_is_taken_back(world: World, served: Served) -> None:
    recipe = recipe_with(served)
    later = world.date + dt.timedelta(days=1)
    for verb in ("score", "publish", "export"):
        world.run(verb, recipe=recipe, date=later)

    with pytest.raises(BadInput, match=rf"serves {later}, .*lumos retract --date {later}"):
        world.run("export", recipe=recipe)
    world.run("retract", recipe=recipe, date=later)
    world.run("export", recipe=recipe)

    store, expected = store_of(recipe), as_published(world, recipe)
    assert as_consumers_read(store, list(expected)) == expected


@on_redis
def test_another_platform_of_the_same_name_does_not_touch_what_is_served(
    world: World, served: Served
) -> None:
    recipe = recipe_with(served)
    world.run("export", recipe=recipe)
    store = open_store(served.config, "gym")
    before = store.pointer()
    assert before is not None
    other = Recipe.model_validate({**recipe.model_dump(), "dataset": "sea"})
    for force in (False, True):
        with pytest.raises(BadInput, match=r"belongs to another platform \(dataset gym, "):
            world.run("export", recipe=other, force=force)
    assert store.pointer() == before


@on_redis
def test_a_process_killed_with_9_leaves_nothing_to_read_and_its_rerun_serves_everything(
    world: World, served: Served
) -> None:
    recipe = recipe_with(served, users_per_second=200)
    stores = json.dumps([store.model_dump() for store in recipe.publishing.stores])
    program = (
        "import sys; from lumos.serve.stores.redis import Redis; Redis.rows_a_put = 5; "
        "from lumos.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        *(sys.executable, "-c", program, "export", f"--date={world.date}"),
        *(f"--set=publishing.stores={stores}", "--set=publishing.valid_days=100000"),
    ]
    store = store_of(recipe)
    edition = edition_of(valid_manifest(world.settings, recipe, world.date))
    running = subprocess.Popen(command, env=world.environment, stderr=subprocess.DEVNULL)
    while store.position(edition) < 20:
        assert running.poll() is None
        time.sleep(0.001)  # or this would keep a core from the exporter
    running.kill()
    running.wait()
    written = store.position(edition)
    assert 20 <= written < 200
    assert store.pointer() is None

    done = subprocess.run(
        command, env=world.environment, capture_output=True, text=True, check=True
    )

    expected = as_published(world, recipe)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["metrics"]["fast.num_rows_sent"] == len(expected) - written
    assert as_consumers_read(store, list(expected)) == expected
    assert PASSWORD not in done.stdout + done.stderr


@on_redis
def test_everything_in_redis_expires_and_the_pointer_first(world: World, served: Served) -> None:
    recipe = recipe_with(served)
    world.run("export", recipe=recipe)
    client = redis.Redis(port=_port(), password=PASSWORD, decode_responses=True)
    keys = client.keys("*")
    ends = {key: client.expiretime(key) for key in keys}
    pointer = ends.pop("lumos:gym:current")
    manifest = valid_manifest(world.settings, recipe, world.date)
    over = dt.datetime.fromtimestamp(pointer, dt.UTC).astimezone(
        dt.timezone(dt.timedelta(hours=5, minutes=30))  # the gym is in Kolkata
    )
    assert over.date() == manifest.valid_until + dt.timedelta(days=1)
    assert set(ends.values()) == {pointer + 86_400}


def _port() -> int:
    return int(os.environ["LUMOS_REDIS_URL"].rsplit(":", 1)[1].split("/")[0])


def test_a_redis_that_does_not_answer_is_a_fault_that_names_the_store_and_no_password(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LUMOS_REDIS_URL", f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
    recipe = recipe_with(Served(RedisStore(name="fast"), lambda _edition, _user: None))
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(StoreFailed, match=r"store fast failed: .*refused") as failed,
    ):
        world.run("export", recipe=recipe)
    assert PASSWORD not in str(failed.value) + caplog.text


@pytest.mark.parametrize(
    ("url", "says"),
    [(None, "set LUMOS_REDIS_URL to redis://"), (f"http://:{PASSWORD}@somewhere", "no Redis URL")],
)
def test_an_address_that_is_none_is_bad_input(
    world: World, monkeypatch: pytest.MonkeyPatch, url: str | None, says: str
) -> None:
    monkeypatch.delenv("LUMOS_REDIS_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("LUMOS_REDIS_URL", url)
    recipe = recipe_with(Served(RedisStore(name="fast"), lambda _edition, _user: None))
    with pytest.raises(BadInput, match=says) as refused:
        world.run("export", recipe=recipe)
    assert PASSWORD not in str(refused.value)


@every_store
def test_an_erased_user_is_in_no_edition_and_everyone_else_is(world: World, served: Served) -> None:
    recipe = recipe_with(served)
    world.run("export", recipe=recipe)
    store, expected = store_of(recipe), as_published(world, recipe)
    gone = min(expected)
    # Names that a careless pattern would take for one another.
    others = ["x", f"x:{gone}", f"{gone}:x", f"{gone}*", f"{gone[:-1]}?", gone.upper()]
    older, scores = "2024-01-01-1-0123abcd", {"score": 0.5}
    until = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    store.put(older, 0, [(user, scores) for user in [gone, *others]], until)

    assert store.erase([gone]) == 2

    assert store.get(older, [gone, *others]) == dict.fromkeys(others, scores)
    del expected[gone]
    assert as_consumers_read(store, [gone, *expected]) == expected
    assert store.erase([gone, "nobody"]) == 0


def test_without_such_a_store_it_says_which_there_are(world: World) -> None:
    with pytest.raises(BadInput, match=r"does not have any store; it has none at all"):
        world.run("export")
    recipe = recipe_with(Served(RedisStore(name="fast"), lambda _edition, _user: None))
    with pytest.raises(BadInput, match=r"does not have store 'slow'; it has fast"):
        world.run("export", recipe=recipe, store="slow")


def test_a_day_that_is_not_published_is_not_exported(world: World) -> None:
    recipe = recipe_with(Served(RedisStore(name="fast"), lambda _edition, _user: None))
    with pytest.raises(BadInput, match="no published scores of"):
        world.run("export", recipe=recipe, date=world.date + dt.timedelta(days=1))


@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 3)), min_size=1, max_size=20),
    st.floats(1, 1000),
)
def test_a_pace_is_never_exceeded_whatever_the_store_takes_of_time(
    puts: list[tuple[int, float]], per_second: float
) -> None:
    now = [0.0]
    pace = Pace(
        per_second,
        clock=lambda: now[0],
        sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
    )
    began: list[tuple[float, int]] = []
    for number, takes in puts:
        pace.wait_for(number)
        began.append((now[0], number))
        now[0] += takes
    # From any put on, what went before the next one fits into the time until then.
    for first in range(len(began)):
        for last in range(first + 1, len(began)):
            sent = sum(number for _, number in began[first:last])
            assert began[last][0] - began[first][0] >= sent / per_second - 1e-6
