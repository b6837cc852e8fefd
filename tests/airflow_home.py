"""Airflow reads its settings when it is first imported, so they are set here, before any test."""

import os
import sys
import tempfile
from pathlib import Path

from lumos.settings import REPOSITORY

if "airflow" not in sys.modules:
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="lumos-airflow-")
    os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(REPOSITORY / "dags")
    os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(REPOSITORY / "plugins")
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
sys.path.insert(0, str(Path(REPOSITORY) / "plugins"))
