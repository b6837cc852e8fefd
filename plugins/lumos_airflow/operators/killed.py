"""What a killed task still has to do, done so that it cannot wait for the task itself."""

import threading
from collections.abc import Callable

# The task's supervisor sends SIGKILL 5 s after SIGTERM.
_SECONDS = 4.0


def aside(act: Callable[[], object]) -> None:
    """Do it in a thread of its own, and wait for it a little; for ``on_kill``.

    Airflow calls ``on_kill`` in a signal's handler, at any moment of the task: perhaps while it
    writes a log line or takes a connection of boto's pool. The handler would wait for that lock for
    ever. A thread waits for it only until the handler has returned.
    """
    thread = threading.Thread(target=act, name="on_kill")
    thread.start()
    thread.join(_SECONDS)
