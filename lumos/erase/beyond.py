"""Where an id may stand that `erase` does not reach, for how long, and who ends it.

One list: the verb's report gives it, and docs/operate.md shows it.
"""

from typing import NamedTuple


class Beyond(NamedTuple):
    """A place that is not ours to write, or that holds copies by design.

    Attributes:
        place: What it is.
        holds: What of a user it may hold.
        retention: When that goes by itself, or what ends it.
    """

    place: str
    holds: str
    retention: str


BEYOND: tuple[Beyond, ...] = (
    Beyond(
        "raw tables",
        "all that the platform landed",
        "the platform's; `erase` refuses while they name the user",
    ),
    Beyond(
        "backups of lake, MLflow and Airflow, and versions that a bucket keeps",
        "all of the day on which they were made",
        "the days that you keep them; with versioning, the bucket's lifecycle rule for noncurrent "
        "versions",
    ),
    Beyond(
        "logs of tasks and components (Airflow, Systems Manager, Databricks)",
        "`user_id ID` in an error or in the example of a check",
        "days of log retention of each: `airflow db clean` does not remove log files",
    ),
    Beyond(
        "XCom, and Airflow's database with its write-ahead log",
        "the same, in a task's report",
        "`airflow db clean --tables xcom,log`; the write-ahead log as long as it is archived",
    ),
    Beyond(
        "alerts that were sent (Slack, PagerDuty, e-mail)",
        "the same, in an alert's text",
        "the days that those services keep messages",
    ),
    Beyond(
        "MLflow",
        "nothing by name: weights, figures and plots over all users",
        "a model keeps what it learned from all; train again if the law asks for it",
    ),
    Beyond(
        "LUMOS_HOME of other hosts",
        "pages, notes of trainings and exports that were made there",
        "`reports`, `train` and `exports` below it; their verbs make them again: delete them there",
    ),
    Beyond(
        "lists of excluded users, calendars for --what-if, and folders of `export-user --to`",
        "ids that people wrote there, or asked for",
        "the files are yours",
    ),
)


def not_reached() -> list[dict[str, str]]:
    """The list, for a report."""
    return [each._asdict() for each in BEYOND]
