"""What `docs/accio.md` says, done."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
from deltalake import write_deltalake

ROOT = Path(__file__).parents[2]
PROOF = """
import sys
wrong = {"pyspark", "airflow", "mlflow"} & set(sys.modules)
assert not wrong, wrong
"""


def test_the_example_of_the_guide_runs_without_spark_and_airflow(tmp_path: Path) -> None:
    text = (ROOT / "docs/accio.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(example.splitlines()) <= 20
    days = [[{"day": 19_740 + n, "visits": 1.0, "spend": float(n)} for n in range(90)]] * 100
    users = {
        "user_id": [f"user {n}" for n in range(100)],
        "registered_on": pa.array([19_700] * 100, pa.int32()).cast(pa.date32()),
        "country": ["FR", None] * 50,
        "days": days,
    }
    write_deltalake(tmp_path / "lake/users", pa.table(users))
    (tmp_path / "example.py").write_text(example + PROOF)
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("100 users, 2 steps an epoch")
