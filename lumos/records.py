"""What verbs and Airflow note of their own work: the same tables for every recipe."""

from lumos.declared import Table, TableColumn

RECORDS = (
    Table(
        "histograms",
        ("day", "table", "column", "bin"),
        ("table", "day"),
        "monitor",
        (
            TableColumn("day", "date", "business day"),
            TableColumn("table", "string"),
            TableColumn("column", "string"),
            TableColumn("bin", "int", "", "of lumos.monitor.histograms; empty ones are left out"),
            TableColumn("num_rows", "bigint", "rows", "of active users, with a value in the bin"),
            TableColumn("source_version", "bigint", "", "Delta version of the table counted"),
        ),
    ),
    Table(
        "metrics",
        ("day", "job", "name", "segment"),
        ("job", "day"),
        "every verb",
        (
            TableColumn("day", "date", "business day"),
            TableColumn("job", "string", "", "the verb that measured it"),
            TableColumn("name", "string"),
            TableColumn("segment", "string"),
            TableColumn("value", "double", nullable=True),
            TableColumn("verdict", "string", "", "ok | warning | critical | unknown | info"),
            TableColumn("message", "string"),
        ),
    ),
    Table(
        "ledger",
        ("table", "business_date"),
        (),
        "every verb that writes",
        (
            TableColumn("table", "string"),
            TableColumn("business_date", "date", "business day"),
            TableColumn(
                "first_day", "date", "business day", "first day of the window answered for"
            ),
            TableColumn("version", "bigint", "Delta version"),
            TableColumn("rows", "bigint", "rows", "rows of the window"),
            TableColumn("verdict", "string", "", "ready | refused"),
            TableColumn("inputs", "string", "JSON", "what it was made from, and which version"),
            TableColumn("fingerprint", "string", "", "of the inputs, the recipe and the options"),
            TableColumn("report", "string", "JSON", "the verb's report, to print again"),
        ),
    ),
    Table(
        "audit",
        ("at", "actor", "verb", "what"),
        (),
        "promote, rollback, retract, erase, every verb with a limit overridden",
        (
            TableColumn("at", "timestamp", "", "just before it was done"),
            TableColumn("actor", "string", "", "airflow:USER or system:USER"),
            TableColumn("verb", "string"),
            TableColumn("recipe", "string"),
            TableColumn("what", "string", "", "what was decided; counts, never a user's id"),
            TableColumn("why", "string", "", "as given by --reason, or what the verb went by"),
        ),
    ),
)

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
