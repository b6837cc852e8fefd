"""Migrate a database once, at set-up: ``python -m demo.template``.

Airflow's and MLflow's migrations take tens of seconds; a fresh home unpacks their result in one.
The archive lies in the virtual environment, for it depends on what is installed there alone.
"""

import contextlib
import os
import tarfile
import tempfile
from pathlib import Path

from demo.airflow import LocalAirflow
from demo.postgres import DATABASES, TEMPLATE, schema_versions
from lumos.settings import Settings
from lumos.train.tracking import client


def prepare(template: Path = TEMPLATE) -> bool:
    """Make the template, unless it fits the installed versions already.

    Returns:
        Whether there was something to do.

    Raises:
        AirflowError: PostgreSQL or a migration failed.
    """
    key = template.with_suffix(".json")
    if template.exists() and key.exists() and key.read_text() == schema_versions():
        return False
    key.unlink(missing_ok=True)  # from here on, half done must not look like done
    with tempfile.TemporaryDirectory(prefix="lumos-") as work:
        # Not the caller's MLflow, but the one that is made here.
        airflow = LocalAirflow(Path(work), environment={**os.environ, "MLFLOW_TRACKING_URI": ""})
        airflow.postgres.create()
        server = airflow.postgres.start(airflow.run_folder)
        try:
            with contextlib.closing(airflow.postgres.connect("postgres")) as connection:
                connection.autocommit = True  # CREATE DATABASE refuses a transaction
                for name in DATABASES:
                    connection.cursor().execute(f"CREATE DATABASE {name}")
            airflow.command("db", "migrate")
            # `mlflow db upgrade` makes no tables where there are none; a first client does.
            client(Settings.from_environment(airflow.environment)).search_experiments()
        finally:
            server.terminate()
            server.join()
        draft = template.with_suffix(".new")
        with tarfile.open(draft, "w") as archive:
            archive.add(airflow.postgres.data, "data")
        draft.replace(template)
    key.write_text(schema_versions())
    return True


if __name__ == "__main__":
    prepare()
