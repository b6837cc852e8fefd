"""Seconds of a processor to parse all DAG files, beyond importing airflow.

The DAG processor does it again and again, so a heavy import in a DAG file costs a core all day.
Measured in this process, which must be fresh: ``python -m benchmarks.parse``.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from lumos.settings import REPOSITORY

HEAVY = ("pandas", "torch", "pyspark", "great_expectations", "numpy", "mlflow", "deltalake")


def main() -> dict[str, object]:
    """Parse once and say how long it took, what failed, and what heavy came with it."""
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("AIRFLOW_HOME", home)
        os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(REPOSITORY / "dags")
        os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(REPOSITORY / "plugins")
        os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
        os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"
        from airflow import sdk
        from airflow.dag_processing.dagbag import DagBag

        assert sdk.DAG  # imported before the clock starts
        before = set(sys.modules)
        started = time.process_time()
        bag = DagBag()
        seconds = time.process_time() - started
    print(f"{len(bag.dags)} DAGs in {seconds:.2f} s, {len(bag.import_errors)} import errors")
    return {
        "parse_s": round(seconds, 3),
        "num_dags": len(bag.dags),
        "import_errors": {Path(k).name: v for k, v in bag.import_errors.items()},
        "heavy": [name for name in HEAVY if name in set(sys.modules) - before],
    }


if __name__ == "__main__":
    print(json.dumps(main()))
