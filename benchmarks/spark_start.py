"""What a small Spark verb costs with a Java process of its own, and with one of the pool.

``python -m benchmarks.spark_start [VERBS]``: runs the typical job of `prepare` as processes, alone
and then from a pool, checks that all leave the same rows, and prints seconds of the clock and of
the processor (Python and Java). The first verb of the pool starts its Java process.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from demo.processes import Component
from lumos.settings import REPOSITORY

JOB = """
import json, sys, tempfile, time
from pathlib import Path
import psutil
from lumos.aggregate.prepare import typical_job
from lumos.aggregate.spark import spark_session

with spark_session("benchmark", cores=2) as spark, tempfile.TemporaryDirectory() as folder:
    java = psutil.Process(spark.sparkContext._jvm.java.lang.ProcessHandle.current().pid())
    typical_job(spark, Path(folder))
    rows = spark.read.format("delta").load((Path(folder) / "sums").as_uri()).orderBy("user_id")
    found = [str(row) for row in rows.collect()]
    print(json.dumps({"java": java.pid, "java_cpu_s": sum(java.cpu_times()[:2]),
                      "python_cpu_s": time.process_time(), "rows": found}))
"""


def run(pool: Path | None) -> dict[str, Any]:
    """One verb, from the start of its process to the end."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "LUMOS_SPARK_POOL": str(pool or "")}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", JOB], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return {**json.loads(done.stdout), "clock_s": time.monotonic() - began}


def main() -> int:
    """Print a line a verb, and a JSON line last."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="lumos-pool-") as name:
        folder = Path(name)
        component = Component(
            "spark-pool",
            [sys.executable, "-m", "lumos.aggregate.jvms", str(folder / "pool")],
            folder=folder,
            environment=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        )
        try:
            while not (folder / "pool" / "socket").exists():
                time.sleep(0.05)
            spent: dict[int, float] = {}
            for place in range(2 * number):
                is_warm = place >= number
                one = run(folder / "pool" if is_warm else None)
                before = spent.get(one["java"], 0.0)
                cpu = one["python_cpu_s"] + one["java_cpu_s"] - before
                memory = 0.0
                if is_warm:
                    java = psutil.Process(one["java"])
                    spent[one["java"]] = sum(java.cpu_times()[:2])
                    memory = java.memory_info().rss / 2**30
                found.append({**one, "cpu_s": cpu, "is_warm": is_warm, "idle_gb": memory})
                print(
                    f"{'pool' if is_warm else 'own':4} {one['clock_s']:6.1f} s, {cpu:5.1f} s of "
                    f"processor, Java {one['java']}, {memory:.2f} GB when idle"
                )
        finally:
            component.terminate()
            component.join()
    is_equal = all(one["rows"] == found[0]["rows"] for one in found)
    own = [one for one in found if not one["is_warm"]]
    warm = [one for one in found if one["is_warm"]][1:]
    print(
        json.dumps(
            {
                "own_cpu_s": round(min(one["cpu_s"] for one in own), 2),
                "pool_cpu_s": round(min(one["cpu_s"] for one in warm), 2),
                "own_clock_s": round(min(one["clock_s"] for one in own), 2),
                "pool_clock_s": round(min(one["clock_s"] for one in warm), 2),
                "idle_gb": round(max(one["idle_gb"] for one in found), 2),
                "equal": is_equal,
            }
        )
    )
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
