"""What someone who may only trigger a DAG could type, made up by hypothesis."""

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from lumos.config import Recipe
from lumos.recipes import load

SHIPPED, ALLOWED = "complete_journey", "gym_world.recipe:recipe"
RECIPES = (
    *(SHIPPED, ALLOWED, f"{ALLOWED} ", f"{ALLOWED}\n", "gym_world.recipe:recipe_without_events"),
    *("gym_world.raw:write_raw", "canary:recipe", "canary:recipe\0", "lumos.cli:main"),
    *("os:abort", "os:fork", "os:_exit", "os:getcwd", "posix:abort", "faulthandler:_sigsegv"),
    *("airflow.utils.db:resetdb", "airflow.utils.db:initdb", "subprocess:run", "pty:spawn"),
    *("antigravity:geohash", "this:c", "idlelib.idle:x", "webbrowser:open", "turtle:mainloop"),
    *("../../../etc/passwd", "/etc/passwd", "..:x", "a/b:c", "file:///etc/passwd", ".:x", ":"),
    *(
        "complete_journey.json",
        "land",
        "__main__:main",
        "\u043es:abort",
        "o\u200bs:abort",
        "os\uff1aabort",
    ),
    *("{{ 7 * 7 }}", "{{ ti }}", "${HOME}", "$(id)", "`id`", "; id", "--help", "", "x" * 5000),
)
PLACES = (
    *("/etc/passwd", "/etc", "../../../../etc/passwd", "/proc/self/environ", "OUTSIDE/secret.csv"),
    *("OUTSIDE", "file:///etc/passwd", "s3://foreign/bucket", "http://127.0.0.1:9/x", "~/.ssh"),
    *("redis://127.0.0.1:9", "\0", "%2e%2e/", "C:\\windows", "//host/share", "/dev/stdin"),
)
NUMBERS = (0, -1, 1, 2, 10**9, 10**30, -(10**30), 0.5, 1e-300, 1e308, "NaN", "Infinity", "1e999")
TABLE = {
    "name": "orders",
    "role": "fact",
    "columns": {"user": "string", "at": "timestamp"},
    "user": "user",
    "happened_at": "at",
    "format": "csv",
}
SELDOM = ("name", "sql", "dataset", "timezone", "raw", "publishing.stores", "publishing.valid_days")


def _fields(tree: Mapping[str, Any], path: str = "") -> list[str]:
    found = []
    for name, value in tree.items():
        found.append(f"{path}{name}")
        if isinstance(value, Mapping):
            found += _fields(value, f"{path}{name}.")
    return found


def _nested(place: str) -> list[Any]:
    table = {**TABLE, "path": place}
    stores = [{"kind": "parquet", "name": "x", "folder": place}]
    task = {"name": "t", "kind": "formula", "window_days": 1, "formula": "os:abort"}
    return [place, [table], stores, [{**task, "answer": "binary"}], {"path": place}]


def _values(places: tuple[str, ...]) -> st.SearchStrategy[str]:
    things = [each for place in places for each in _nested(place)]
    written = st.sampled_from([json.dumps(each) for each in things] + list(places))
    numbers = st.sampled_from([str(each) for each in NUMBERS])
    deep = st.sampled_from(["[" * 400, "[" * 100_000, '{"a":' * 300, "9" * 5000, "true", "null"])
    return st.one_of(written, numbers, deep, st.text(max_size=40))


def confs(recipe: Recipe, outside: str) -> st.SearchStrategy[Any]:
    """Of runs, most of them nearly right.

    Args:
        recipe: Whose fields are overridden.
        outside: A folder that nothing has a reason to touch.
    """
    places = tuple(place.replace("OUTSIDE", outside) for place in PLACES)
    keys = st.sampled_from(
        [*_fields(recipe.model_dump()), *SELDOM, *SELDOM, "", "__class__", "a.b"]
    )
    anything = st.recursive(
        st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), st.text(max_size=20))
        | st.sampled_from([*RECIPES, *places]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
    told = st.sampled_from([f"{key}={json.dumps(value)}" for key, value in _elsewhere(outside)])
    change = st.one_of(told, st.builds("{}={}".format, keys, _values(places)), st.text(max_size=30))
    changes = st.lists(change, min_size=1, max_size=3)
    strange = st.one_of(st.sampled_from(places), anything)
    dates = st.sampled_from(["2999-01-01", "0001-01-01", "2024-W01", "20240510", ""])
    good = {"recipe": st.sampled_from([SHIPPED, ALLOWED]), "business_date": st.just("2024-05-10")}
    one_thing = {
        "recipe": st.one_of(st.sampled_from(RECIPES), st.sampled_from(RECIPES), anything),
        "settings": st.one_of(changes, changes, changes, anything),
        "business_date": st.one_of(dates, strange),
        "days": st.one_of(st.integers(), strange),
        "experiment": strange,
        "model": strange,
        "reason": strange,
        "version": st.one_of(st.integers(), strange),
        "force": strange,
        "publish": strange,
        "republish": strange,
        "user": strange,
        "what_if": strange,
    }
    often = ("recipe", "recipe", "settings", "settings", "settings")
    alone = [
        st.fixed_dictionaries({**good, name: one_thing[name]}) for name in (*often, *one_thing)
    ]
    others = {name: each for name, each in one_thing.items() if name not in good}
    mixed = st.fixed_dictionaries(good, optional=others)
    return st.one_of(*alone, mixed, anything)


def written(outside: str) -> list[dict[str, Any]]:
    """Confs that no chance shall leave out."""
    good = {"recipe": SHIPPED, "business_date": "2024-05-10"}
    changes = [f"{key}={json.dumps(value)}" for key, value in _elsewhere(outside)]
    return [{**good, "recipe": name} for name in RECIPES] + [
        {**good, "settings": [change]} for change in changes
    ]


def _elsewhere(outside: str) -> list[tuple[str, Any]]:
    """Overrides that fit a recipe, and would have a verb read or write elsewhere."""
    raw = [{**TABLE, "path": f"{outside}/secret.csv"}]
    stores = [{"kind": "parquet", "name": "x", "folder": outside}]
    return [
        *(("sql", outside), ("sql", "/etc"), ("dataset", "fantasy_sports"), ("name", "other")),
        *(("timezone", "Asia/Tokyo"), ("raw", raw), ("publishing.stores", stores)),
        *(("publishing.valid_days", 9999), ("late_days", 400), ("num_buckets", 9)),
        *(("sql_parameters", {"x": "1; DROP"}), ("description", "x"), ("country", "US")),
        *(("training.epochs", 2), ("publishing.max_drift", 1.0), ("quality.usual_days", 7)),
        *(("training.processes", 64), ("embedding.num_cohorts", 1000)),
    ]


def recipe_of_the_fields() -> Recipe:
    """The one whose fields are overridden."""
    return load(SHIPPED)
