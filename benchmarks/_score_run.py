"""One morning in a fresh process: score, then publish. What `benchmarks.score` starts.

    python -m benchmarks._score_run USERS

The last line is JSON: users, seconds and processor seconds of both verbs, and the peak of resident
memory after each. Imports are not counted.
"""

import json
import logging
import resource
import shutil
import sys
import time

# Imported before the clock starts, as a worker that scores every morning would have them.
import lumos.serve.publish
import lumos.serve.score  # noqa: F401
from benchmarks import _scoring as scoring
from lumos import compute
from lumos.cli import run
from lumos.tables import table_uri


def main() -> None:
    """Score and publish once, from nothing."""
    compute.set_up()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    settings, recipe = scoring.recipe_of(int(sys.argv[1]))
    for table in ("forecasts", "scores", "manifests"):
        shutil.rmtree(table_uri(settings, recipe, table), ignore_errors=True)
    found: dict[str, float] = {}
    for verb in ("score", "publish"):
        started, started_cpu = time.monotonic(), time.process_time()
        report = run(scoring.request(settings, recipe, verb, force=True))
        found[f"{verb}_s"] = time.monotonic() - started
        found[f"{verb}_cpu_s"] = time.process_time() - started_cpu
        found[f"{verb}_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if verb == "score":
            found["users"] = float(report.metrics["num_users"] or 0)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
