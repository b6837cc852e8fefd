"""What `docs/pacman.md` says, done by consumers that know nothing else."""

import datetime as dt
import re
from collections.abc import Iterator

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from lumos.cli import VERBS
from lumos.serve.manifest import Manifest, valid_manifest
from lumos.settings import REPOSITORY
from lumos.tables import table_uri, tables
from tests.conftest import World
from tests.serve.publications import GYM, consumed, manifests, rewrite_manifests

PAGE = (REPOSITORY / "docs" / "pacman.md").read_text()
LAKE = "s3://lake/shop"


def blocks(language: str, world: World) -> list[str]:
    """Examples of the page in one language, about a world's own lake."""
    own = table_uri(world.settings, GYM, "scores").removesuffix("/scores")
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return [block.replace(LAKE, own) for block in found]


@pytest.fixture
def published(scored: World) -> Iterator[World]:
    """A gym whose scores are valid today, whenever that is; older ones stand beside them."""
    scored.run("publish")
    (manifest,) = manifests(scored)
    today = dt.datetime.now(dt.UTC).date()
    valid = {**manifest.model_dump(), "valid_until": today + dt.timedelta(days=1)}
    others = [
        {"as_of": dt.date(2024, 5, 9)},
        {"as_of": dt.date(2024, 5, 11), "state": "retracted", "scores_version": 98},
        {"as_of": dt.date(2999, 1, 1), "valid_until": dt.date(2999, 1, 3)},
        {"as_of": dt.date(2024, 5, 12), "created": dt.datetime(2999, 1, 1, tzinfo=dt.UTC)},
        {"as_of": dt.date(2024, 5, 13), "valid_until": dt.date(2024, 5, 15)},
    ]
    every = [Manifest.model_validate({**valid, **other}) for other in ({}, *others)]
    rewrite_manifests(scored, every)
    return scored


def sorted_rows(rows: pa.Table) -> list[dict]:
    return sorted(rows.to_pylist(), key=lambda row: row["user_id"])


def test_all_three_ways_in_python_give_the_published_rows(published: World) -> None:
    whole, parts, duck = ({}, {}, {})
    for block, scope in zip(blocks("python", published), (whole, parts, duck), strict=True):
        exec(block, scope)

    expected = consumed(published)
    assert expected.num_rows > 200
    assert whole["scores"] == expected
    assert parts["num_users"] == expected.num_rows
    assert sorted_rows(duck["scores"]) == sorted_rows(expected)


def test_spark_sql_finds_the_rows_and_proves_them(published: World, spark: SparkSession) -> None:
    which, rows, proof = blocks("sql", published)

    (found,) = spark.sql(which).collect()
    manifest = found.asDict()
    scores = spark.sql(rows.format(**manifest)).toArrow()
    (sums,) = spark.sql(proof.format(**manifest)).collect()

    live = valid_manifest(published.settings, GYM)
    assert (manifest["as_of"], manifest["scores_version"]) == (live.as_of, live.scores_version)
    assert sorted_rows(scores) == sorted_rows(consumed(published))
    assert sums.asDict() == {"checksum": live.checksum, "num_rows": live.num_rows}


@pytest.mark.parametrize("name", ["scores", "manifests"])
def test_the_page_knows_every_column(name: str) -> None:
    section = PAGE.split(f"### `{name}`")[1].split("\n#")[0]
    words = set(re.findall(r"`(\w+)`", section))
    tasks = {task.name for task in GYM.tasks}
    declared = set(tables(GYM)[name].column_names)
    own = {c for c in declared if c not in tasks and not c.endswith(("_low", "_high"))}
    assert own <= words


def test_the_commands_on_the_page_are_verbs() -> None:
    named = set(re.findall(r"`lumos (\w+)", PAGE))
    assert named
    assert named <= set(VERBS)
