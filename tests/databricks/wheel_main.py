"""What a cluster's driver does with a ``python_wheel_task``, in a process of the project's Python.

Usage: ``wheel_main.py RESULT_FILE PACKAGE ENTRY_POINT PARAMETER...``, with the wheels unpacked on
PYTHONPATH. Writes ``{"error", "error_trace"}`` of a task that failed, ``{}`` of one that did not.
"""

import json
import sys
import traceback
from importlib import import_module, metadata
from pathlib import Path


def main() -> None:
    """Call the entry point as Databricks does."""
    result, package, entry_point, *parameters = sys.argv[1:]
    sys.argv = [package, *parameters]
    said = {}
    try:
        # "Named entry point to use, if it does not exist in the metadata of the package it
        # executes the function from the package directly using `$packageName.$entryPoint()`".
        named = metadata.distribution(package).entry_points.select(name=entry_point)
        function = next(iter(named)).load() if named else None
        function = function or getattr(import_module(package), entry_point)
        function()  # what it returns is ignored
    except SystemExit as left:
        if left.code not in (0, None):
            said = {"error": f"SystemExit: {left.code}", "error_trace": traceback.format_exc()}
    except BaseException as error:
        said = {
            "error": f"{type(error).__name__}: {error}",
            "error_trace": traceback.format_exc(),
        }
    sys.stdout.flush()
    Path(result).write_text(json.dumps(said))


if __name__ == "__main__":
    main()
