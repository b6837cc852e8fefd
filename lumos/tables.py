"""The contract tables, declared once: key, partition, columns, units, and the job that owns each.

Spark rooms and torch rooms meet only here: both write by these declarations, Spark itself
(:meth:`Table.ddl`) or without a JVM by :mod:`lumos.delta`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from lumos.config import Recipe
from lumos.settings import Settings

_ARROW = {
    "string": pa.string(),
    "boolean": pa.bool_(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "array<float>": pa.list_(pa.float32()),
}

# Users a Parquet row group of `sequences`: what the loader reads at a time. Fewer cost storage and
# calls, more cost the loader memory and mixing (docs/accio.md).
ROW_GROUP_USERS = 1024


@dataclass(frozen=True)
class TableColumn:
    """A column: Spark SQL type, unit and meaning; ``day`` values are dates in the recipe's zone."""

    name: str
    type: str
    unit: str = ""
    description: str = ""
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """A contract table. No two rows share ``key``; ``owner`` is the verb that writes it."""

    name: str
    key: tuple[str, ...]
    partition: tuple[str, ...]
    owner: str
    columns: tuple[TableColumn, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names in declared order."""
        return tuple(column.name for column in self.columns)

    def ddl(self) -> str:
        """Columns as Spark SQL DDL, for ``createDataFrame`` and ``CREATE TABLE``."""
        return ", ".join(f"{column.name} {column.type}" for column in self.columns)

    def arrow_schema(self, recipe: Recipe | None = None) -> pa.Schema:
        """The same as an Arrow schema; only tables of all recipes need none."""
        days = pa.list_(pa.struct(_day_fields(recipe))) if recipe else None
        return pa.schema(
            [
                pa.field(column.name, _ARROW.get(column.type, days), column.nullable)
                for column in self.columns
            ]
        )


def _day_fields(recipe: Recipe) -> list[pa.Field]:
    return [
        pa.field("day", pa.int16()),
        *(pa.field(column.name, pa.float32()) for column in recipe.activity),
    ]


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
        Table(
            "experiments",
            ("experiment",),
            ("experiment",),
            "assign",
            (
                column("experiment", "string"),
                column("frozen_on", "date", "business day", "from here on it is held to"),
                column("assigned_until", "date", "business day", "last day users were assigned"),
                column("declaration", "string", "JSON", "its file, whole"),
                column("selects", "string", "JSON", "digests of the SELECTs that it names"),
            ),
        ),
        Table(
            "exposures",
            ("experiment", "user_id"),
            ("experiment",),
            "assign",
            (
                column("experiment", "string"),
                column("user_id", "string"),
                column("variant", "string"),
                column("exposed_on", "date", "business day", "first day in the experiment"),
                column("excluded", "string", "", "why the user is not counted", nullable=True),
            ),
        ),
        Table(
            "outcomes",
            ("experiment", "day", "variant"),
            ("experiment", "day"),
            "measure",
            (
                column("experiment", "string"),
                column("day", "date", "business day"),
                column("variant", "string"),
                column("num_users", "bigint", "users", "exposed on or before the day"),
                column("num_new", "bigint", "users", "exposed on the day"),
                column("num_active", "bigint", "users", "daily active users"),
                column("cost", "double", "", "of offers; null: no such column", nullable=True),
            ),
        ),
        Table(
            "moments",
            ("experiment", "as_of", "metric", "segment", "variant", "left", "right"),
            ("experiment", "as_of"),
            "measure",
            (
                column("experiment", "string"),
                column("as_of", "date", "business day"),
                column("metric", "string"),
                column("segment", "string", "", "all, or an attribute and its value"),
                column("variant", "string"),
                column("left", "string", "", "one, numerator, denominator or a covariate"),
                column("right", "string"),
                column("value", "double", "", "sum over users of left x right"),
            ),
        ),
        Table(
            "effects",
            ("experiment", "as_of", "metric", "segment", "variant", "adjust"),
            ("experiment", "as_of"),
            "measure",
            (
                column("experiment", "string"),
                column("as_of", "date", "business day"),
                column("metric", "string"),
                column("role", "string", "", "primary | secondary | guardrail"),
                column("direction", "string", "", "up | down: which is good"),
                column("segment", "string", "", "all, or an attribute and its value"),
                column("variant", "string", "", "the treatment; the first variant is the control"),
                column("adjust", "string", "", "none | pre_period | forecast | both"),
                column("is_declared", "boolean", "", "the adjustment that the declaration names"),
                column("num_control", "bigint", "users"),
                column("num_treatment", "bigint", "users"),
                column("srm_p_value", "double", "", "sample-ratio check"),
                column("control", "double", "", "mean or ratio; null: hidden", nullable=True),
                column("treatment", "double", "", "mean or ratio", nullable=True),
                column("effect", "double", "", "treatment - control", nullable=True),
                column("error", "double", "", "standard error of the effect", nullable=True),
                column("relative", "double", "share", nullable=True),
                column("variance_reduction", "double", "share", "by adjusting", nullable=True),
                column("rule", "string", "", "group_sequential | always_valid | fixed | none"),
                column("low", "double", "", "of the effect, by the rule", nullable=True),
                column("high", "double", nullable=True),
                column("relative_low", "double", "share", nullable=True),
                column("relative_high", "double", "share", nullable=True),
                column("p_value", "double", "", "by the rule", nullable=True),
                column("p_adjusted", "double", "", "among all secondary metrics", nullable=True),
            ),
        ),
        Table(
            "looks",
            ("experiment", "as_of", "variant"),
            ("experiment",),
            "measure",
            (
                column("experiment", "string"),
                column("as_of", "date", "business day"),
                column("variant", "string"),
                column("day", "int", "", "of the experiment, from 1"),
                column("srm_p_value", "double"),
                column(
                    "effect",
                    "double",
                    "",
                    "of the primary metric, as known then; null: hidden, or without variance",
                    nullable=True,
                ),
                column("error", "double", "", "its standard error", nullable=True),
                column("relative", "double", "share", nullable=True),
                column("information", "double", "", "1 / relative error squared", nullable=True),
                column("low", "double", "", "by the bound of the look", nullable=True),
                column("high", "double", nullable=True),
                column("alpha_spent", "double", "", "by this look, in all", nullable=True),
                column("bound", "double", "", "what |z| had to reach", nullable=True),
                column(
                    "p_value",
                    "double",
                    "",
                    "over this look and all before, up to the first that crossed",
                    nullable=True,
                ),
                column("is_crossed", "boolean", "", "the bound, at this look or one before"),
                column("advice", "string", "", "what was advised then"),
                column("inputs", "string", "JSON", "table versions that it was made from"),
            ),
        ),
        Table(
            "histograms",
            ("day", "table", "column", "bin"),
            ("table", "day"),
            "monitor",
            (
                column("day", "date", "business day"),
                column("table", "string"),
                column("column", "string"),
                column("bin", "int", "", "of lumos.monitor.histograms; empty ones are left out"),
                column("num_rows", "bigint", "rows", "of active users, with a value in the bin"),
                column("source_version", "bigint", "", "Delta version of the table counted"),
            ),
        ),
        Table(
            "metrics",
            ("day", "job", "name", "segment"),
            ("job", "day"),
            "every verb",
            (
                column("day", "date", "business day"),
                column("job", "string", "", "the verb that measured it"),
                column("name", "string"),
                column("segment", "string"),
                column("value", "double", nullable=True),
                column("verdict", "string", "", "ok | warning | critical | unknown | info"),
                column("message", "string"),
            ),
        ),
        Table(
            "ledger",
            ("table", "business_date"),
            (),
            "every verb that writes",
            (
                column("table", "string"),
                column("business_date", "date", "business day"),
                column("first_day", "date", "business day", "first day of the window answered for"),
                column("version", "bigint", "Delta version"),
                column("rows", "bigint", "rows", "rows of the window"),
                column("verdict", "string", "", "ready | refused"),
                column("inputs", "string", "JSON", "what it was made from, and which version"),
                column("fingerprint", "string", "", "of the inputs, the recipe and the options"),
                column("report", "string", "JSON", "the verb's report, to print again"),
            ),
        ),
    )
    return {table.name: table for table in declared}


# One for all recipes: a run may fail because its recipe cannot be loaded.
ALERTS = Table(
    "alerts",
    ("dedup_key",),
    (),
    "Airflow",
    (
        TableColumn("dedup_key", "string", "", "recipe/dag_id/business_date/name"),
        TableColumn("first_sent", "timestamp", "", "since it is open"),
        TableColumn("last_sent", "timestamp", "", "null: nobody could be told", nullable=True),
        TableColumn("last_seen", "timestamp"),
        TableColumn("count", "bigint", "occurrences", "since it is open"),
        TableColumn("severity", "string", "", "critical | warning"),
        TableColumn("name", "string", "", "its section in docs/runbook.md"),
        TableColumn("dag_id", "string"),
        TableColumn("task_id", "string", "", "empty: a missed deadline"),
        TableColumn("run_id", "string", "", "of the last occurrence"),
        TableColumn("business_date", "string", "", "ISO date, or unknown"),
        TableColumn("recipe", "string", "", "as the run was given it"),
        TableColumn("message", "string"),
        TableColumn("state", "string", "", "open | resolved"),
        TableColumn("url", "string", "", "of the task's log, or of the run"),
    ),
)


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
