"""A training made ready on a small lake, without MLflow: for tests of its steps."""

from pathlib import Path
from typing import Any

from lumos.config import Recipe
from lumos.overrides import override
from lumos.settings import Settings
from lumos.train.distributed import World
from lumos.train.prepare import Prepared, find_origins, pinned, prepare
from lumos.verbs import Request
from tests.accio import small

SETTINGS = {
    "training.epochs": 3,
    "training.batch_size": 16,
    "training.learning_rate": 0.003,
    "model.dropout": 0.1,
}


def recipe(**changes: Any) -> Recipe:
    named = {f"training.{key}": value for key, value in changes.items()}
    return override(small.recipe(), {**SETTINGS, **named})


def lake(home: Path, number: int = 60) -> Settings:
    return small.write_lake(home, small.users(number))


def prepared(at: Settings, of: Recipe, world: World | None = None) -> Prepared:
    request = Request(verb="train", recipe=of, date=small.AS_OF, settings=at)
    origins = find_origins(at, of, small.AS_OF)
    return prepare(request, pinned(request), origins, world or World())
