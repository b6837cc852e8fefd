"""Who is alike: of one day and one model, by what was asked, and never by what was not checked."""

import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from lumos.cli import parser, request_from
from lumos.delta import predicate, read
from lumos.overrides import override
from lumos.recipes import load
from lumos.tables import table_uri
from lumos.verbs import BadInput
from tests.conftest import RECIPE, World
from tests.conftest import enter as here
from tests.serve.lake import DATES
from tests.serve.models import register


@pytest.fixture(scope="module")
def embedded_once(_crowned: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = _crowned.copy(tmp_path_factory.mktemp("similar") / "home")
    world.run("embed")
    return world


@pytest.fixture
def world(embedded_once: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A day embedded; nothing here writes."""
    return here(embedded_once, monkeypatch)


def vectors(world: World, kind: str) -> dict[str, np.ndarray]:
    rows = read(
        table_uri(world.settings, load(RECIPE), "embeddings"),
        where=predicate(as_of=world.date, kind=kind),
    )
    assert rows is not None
    return {row["id"]: np.array(row["embedding"]) for row in rows.to_pylist()}


@pytest.mark.parametrize("kind", ["user", "static", "day"])
def test_it_names_those_of_highest_cosine_to_the_mean(world: World, kind: str) -> None:
    known = vectors(world, kind)
    asked = sorted(known)[5]
    centre = np.mean(list(known.values()), axis=0)

    def cosine(other: str) -> float:
        a, b = known[asked] - centre, known[other] - centre
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    found = world.run("similar", kind=kind, id=asked, k=7).details

    expected = sorted((cosine(name) for name in known if name != asked), reverse=True)[:7]
    said = [row["similarity"] for row in found["neighbours"]]
    assert said == pytest.approx(expected, abs=2e-4)
    for row in found["neighbours"]:
        assert cosine(row["id"]) == pytest.approx(row["similarity"], abs=2e-4)
    assert asked not in [row["id"] for row in found["neighbours"]]
    assert (found["as_of"], found["model_version"]) == (str(world.date), "1")


def test_a_days_neighbours_come_with_what_was_on(world: World) -> None:
    saturday = "2024-05-11"
    found = world.run("similar", kind="day", id=saturday, k=3).details
    assert found["context"] == {"saturday": 1, "num_classes": 6}
    for row in found["neighbours"]:
        assert row["context"] == found["context"]
        assert row["similarity"] > 0.99


def test_all_are_named_when_more_are_asked_for(world: World) -> None:
    known = vectors(world, "user")
    found = world.run("similar", id=min(known), k=1000).details["neighbours"]
    assert {row["id"] for row in found} == set(known) - {min(known)}


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("user", "nobody", "no embedding as of 2024-05-10: .*--kind static also has"),
        ("user", "x' OR '1'='1", "no embedding as of"),
        ("user", 'x" OR 1=1 --', "no embedding as of"),
        ("user", "", "is no id: a user_id of 1 to 256"),
        ("user", None, "is no id"),
        ("user", "a\nb", "is no id"),
        ("user", "x" * 257, "is no id"),
        ("day", "yesterday", "is not a day written as YYYY-MM-DD"),
        ("day", "2024-05-99", "has no embedding as of"),
        ("day", "1999-01-01", "42 days up to then and 10 after"),
        ("days", "2024-05-11", "--kind 'days' is none of user, static, day"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_remedy(
    world: World, kind: str, name: str | None, says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        world.run("similar", kind=kind, id=name)


def test_before_the_first_embeddings_there_are_none(world: World) -> None:
    with pytest.raises(BadInput, match=r"no embeddings up to 2024-05-09. Run `lumos embed"):
        world.run("similar", id="m-000é", date=DATES[0].replace(day=9))


def test_a_later_date_answers_from_the_newest_before_it(world: World) -> None:
    found = world.run("similar", id=min(vectors(world, "user")), date=DATES[1]).details
    assert found["as_of"] == str(DATES[0])


def test_embeddings_of_another_model_are_never_among_them(
    embedded_once: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = here(embedded_once.copy(tmp_path / "home"), monkeypatch)
    recipe = load(RECIPE)
    before = other.run("similar", id="m-003é").details
    second = register(other, seed=2)
    other.run("embed", model=second)
    after = other.run("similar", id="m-003é").details
    assert (before["model_version"], after["model_version"]) == ("1", "2")
    assert before["neighbours"] != after["neighbours"]
    # A day that is half another model's, as a kill leaves it, is not the ledger's version.
    with monkeypatch.context() as patched:
        patched.setattr("lumos.serve.embed.profile", _die)
        with pytest.raises(RuntimeError, match="killed"):
            other.run("embed", model="1", recipe=override(recipe, {"num_buckets": 3}))
    assert other.run("similar", id="m-003é").details == after


def _die(*_: object) -> None:
    raise RuntimeError("killed")


def test_the_command_line_takes_no_date_and_a_bounded_k(world: World) -> None:
    given = parser().parse_args(["similar", "--recipe", RECIPE, "--id", "a", "--k", "3"])
    request = request_from(given, dt.datetime.combine(DATES[1], dt.time(12), dt.UTC))
    assert (request.date, request.options) == (DATES[1], {"kind": "user", "id": "a", "k": 3})
    for k in ("0", "1001", "-1", "x"):
        with pytest.raises(SystemExit):
            parser().parse_args(["similar", "--id", "a", f"--k={k}"])
