"""The contract tables, declared once: key, partition, columns, units, and the job that owns each.

Spark rooms and torch rooms meet only here: both write by these declarations, Spark itself
(:meth:`Table.ddl`) or without a JVM by :mod:`lumos.delta`.
"""

from collections.abc import Mapping

from lumos.config import Recipe
from lumos.declared import Table, TableColumn
from lumos.experiment_tables import EXPERIMENTS
from lumos.records import ALERTS, RECORDS
from lumos.settings import Settings

__all__ = ["ALERTS", "ROW_GROUP_USERS", "Table", "TableColumn", "alerts_uri", "raw_uri",
           "table_uri", "tables"]  # fmt: skip

# Users a Parquet row group of `sequences`: what the loader reads at a time. Fewer cost storage and
# calls, more cost the loader memory and mixing (docs/accio.md).
ROW_GROUP_USERS = 1024


def _days_type(recipe: Recipe) -> str:
    fields = ", ".join(f"{column.name}: float" for column in recipe.activity)
    return f"array<struct<day: smallint, {fields}>>"


def _static_columns(recipe: Recipe) -> tuple[TableColumn, ...]:
    """Nullable on purpose: a missing attribute is a category of its own."""
    kind = {"categorical": "string", "continuous": "double"}
    return tuple(
        TableColumn(column.name, kind[column.kind], column.unit, column.description, nullable=True)
        for column in recipe.static
    )


def tables(recipe: Recipe) -> Mapping[str, Table]:
    """Every contract table of a recipe, by name."""
    column = TableColumn
    day_cells = tuple(column(c.name, "double", c.unit, c.description) for c in recipe.activity)
    forecasts = tuple(
        column(f"p_{name}", "float", "probability", f"P({name} on the day)")
        for name in recipe.binary
    ) + tuple(
        cell
        for c in recipe.activity
        if c.kind == "continuous"
        for cell in (
            column(f"given_{c.name}", "float", c.unit, f"E[{c.name} | {recipe.active}]"),
            column(f"mean_{c.name}", "float", c.unit, f"P({recipe.active}) x given_{c.name}"),
        )
    )
    unit = {task.name: "probability" if task.is_binary else "" for task in recipe.tasks}
    asked = {task.name: task.column or task.formula or "" for task in recipe.tasks}
    scores = tuple(column(name, "double", unit[name], asked[name]) for name in asked)
    level = f"{recipe.calibration.interval_level:.0%}"
    scores += tuple(
        column(f"{task.name}_{end}", "double", "", f"{what} end of its {level} interval")
        for task in recipe.tasks
        if not task.is_binary
        for end, what in (("low", "lower"), ("high", "upper"))
    )
    # Said once a user: the same on all rows of a horizon, which Parquet keeps for nothing.
    heads = tuple(
        column(f"task_{t.name}", "double", unit[t.name], f"{t.name} by its own head, on every row")
        for t in recipe.tasks
        if t.has_head
    )
    declared = (
        Table(
            "activity",
            ("user_id", "day"),
            ("day",),
            "aggregate",
            (
                column("user_id", "string"),
                column("day", "date", "business day"),
                *day_cells,
                column("num_raw_rows", "bigint", "rows", "raw fact rows counted in this row"),
            ),
        ),
        Table(
            "event_context",
            ("day", "known_on"),
            (),
            "aggregate",
            (
                column("day", "date", "business day"),
                column("known_on", "date", "business day", "the row was known from here"),
                *(column(c.name, "double", c.unit, c.description) for c in recipe.events),
            ),
        ),
        Table(
            "users",
            ("user_id", "valid_from"),
            (),
            "aggregate",
            (
                column("user_id", "string"),
                column("valid_from", "date", "business day", "attributes hold from this day on"),
                column("registered_on", "date", "business day"),
                *_static_columns(recipe),
            ),
        ),
        Table(
            "quarantine",
            ("job", "day", "raw_table", "row"),
            ("job", "day"),
            "aggregate",
            (
                column("job", "string", description="the verb that rejected the row"),
                column("day", "date", "business day", "the day the row landed"),
                column("reason", "string"),
                column("raw_table", "string"),
                column("row", "string", "JSON", "the rejected row, whole"),
                column("num_rows", "bigint", "rows", "identical rows rejected together"),
            ),
        ),
        Table(
            "sequences",
            ("user_id",),
            ("bucket",),
            "sequences",
            (
                column("user_id", "string"),
                column("registered_on", "date", "business day"),
                *_static_columns(recipe),
                column("days", _days_type(recipe), "", "active days, ascending; day = since 1970"),
                column("bucket", "int", "", "hash of user_id; one file a bucket"),
            ),
        ),
        Table(
            "forecasts",
            ("as_of", "user_id", "horizon_day"),
            ("as_of", "shard"),
            "score",
            (
                column("as_of", "date", "business day"),
                column("shard", "int"),
                column("user_id", "string"),
                column("horizon_day", "date", "business day"),
                *forecasts,
                *heads,
                column("model_version", "string"),
            ),
        ),
        Table(
            "shadows",
            ("as_of", "model_version", "user_id"),
            ("as_of",),
            "shadow",
            (
                column("as_of", "date", "business day", "last day the forecast saw"),
                column("model_version", "string"),
                column("user_id", "string"),
                *(column(name, "double", unit[name], f"{asked[name]}, raw") for name in asked),
            ),
        ),
        Table(
            "what_ifs",
            ("as_of", "question", "user_id"),
            ("as_of", "question", "part"),
            "score",
            (
                column("as_of", "date", "business day"),
                column("question", "string", "", "hash of the edits, the model and its inputs"),
                column("part", "int", "", "users are answered in parts"),
                column("user_id", "string"),
                *(
                    column(name + suffix, "double", unit[name], f"{asked[name]}, {what}")
                    for name in asked
                    for suffix, what in (
                        ("", "under the calendar as known"),
                        ("_if", "under the edited calendar"),
                        ("_change", "edited less known"),
                    )
                ),
                column("model_version", "string"),
            ),
        ),
        Table(
            "evaluations",
            ("as_of", "model_version", "origin", "user_id"),
            ("as_of",),
            "evaluate",
            (
                column("as_of", "date", "business day", "business date of the evaluation"),
                column("origin", "date", "business day", "last day the forecast saw"),
                column("user_id", "string"),
                column("is_held_out", "boolean", "", "user never seen in training"),
                column("model_version", "string"),
                *(
                    column(f"{task.name}_{what}", "double")
                    for task in recipe.tasks
                    for what in ("forecast", "outcome")
                ),
            ),
        ),
        Table(
            "scores",
            ("as_of", "user_id"),
            ("as_of",),
            "publish",
            (
                column("as_of", "date", "business day"),
                column("user_id", "string"),
                *scores,
                column("model_version", "string"),
                column("calibrator_version", "string"),
            ),
        ),
        Table(
            "manifests",
            ("as_of", "scores_version"),
            (),
            "publish, retract",
            (
                column("as_of", "date", "business day"),
                column("scores_version", "bigint", "", "Delta version of `scores` to read"),
                column("state", "string", "", "live | superseded | retracted"),
                column("num_rows", "bigint", "rows"),
                column("columns", "string", "", "of the publication, joined by commas"),
                column("checksum", "string", "", "sum of xxhash64(columns) over the rows"),
                column("model_version", "string"),
                column("calibrator_version", "string"),
                column("inputs", "string", "JSON", "input tables and their Delta versions"),
                column("spread", "string", "JSON", "of each score: how many users in which bin"),
                column("created", "timestamp", "", "when it was published"),
                column("valid_until", "date", "business day", "last day consumers may use it"),
                column("retracted", "timestamp", "", "when it was taken back", nullable=True),
                column("reason", "string", "", "why it was taken back", nullable=True),
            ),
        ),
        Table(
            "embeddings",
            ("as_of", "kind", "id"),
            ("as_of", "kind", "bucket"),
            "embed",
            (
                column("as_of", "date", "business day"),
                column("kind", "string", "", "user | static | day"),
                column("bucket", "int", "", "of sequences; 0 for days"),
                column("id", "string", "", "user_id, or the day as YYYY-MM-DD"),
                column("model_version", "string"),
                column(
                    "form", "string", "", "how days were pooled; static and day: always the same"
                ),
                column("registered_on", "date", "business day", "null for days", nullable=True),
                column("num_active_days", "int", "of the last 28", "null for days", nullable=True),
                column("last_active_on", "date", "business day", "null: never", nullable=True),
                column("embedding", "array<float>", "", "of one length a kind and model version"),
            ),
        ),
        Table(
            "profiles",
            ("as_of", "user_id"),
            ("as_of", "bucket"),
            "embed",
            (
                column("as_of", "date", "business day"),
                column("bucket", "int", "", "of sequences"),
                column("user_id", "string"),
                column("model_version", "string"),
                column("form", "string", "", "of the embedding"),
                column("cohort", "int", "", "its number in cohorts"),
                column("change", "float", "", "of the embedding; null: no earlier", nullable=True),
                column("score", "float", "", "change over what is usual", nullable=True),
                column("p_value", "float", "probability", "of such a score", nullable=True),
                column("is_anomaly", "boolean"),
            ),
        ),
        Table(
            "cohorts",
            ("model_version", "form", "num_cohorts", "cohort"),
            (),
            "embed",
            (
                column("model_version", "string"),
                column("form", "string", "", "of the embedding"),
                column("num_cohorts", "int", "", "that were asked for"),
                column("cohort", "int"),
                column("fitted_on", "date", "business day"),
                column("num_users", "bigint", "users", "that it was fitted on"),
                column("centroid", "array<float>"),
            ),
        ),
        *EXPERIMENTS,
        *RECORDS,
    )
    return {table.name: table for table in declared}


def alerts_uri(settings: Settings) -> str:
    """Where the alerts of all recipes lie."""
    return f"{settings.lake}/{ALERTS.name}"


def table_uri(settings: Settings, recipe: Recipe, name: str) -> str:
    """Where a contract table of this recipe lies."""
    return f"{settings.lake}/{recipe.name}/{tables(recipe)[name].name}"


def raw_uri(settings: Settings, recipe: Recipe, name: str) -> str:
    """Where a raw table of the recipe's dataset lies."""
    (raw,) = (table for table in recipe.raw if table.name == name)
    path = raw.path or raw.name
    if "://" in path or path.startswith("/"):
        return path
    return f"{settings.lake}/raw/{recipe.dataset}/{path}"
