"""A user without a name: containers run under ids that are not in /etc/passwd.

Python, Java and Hadoop each ask there for a name and a home, and fail in their own way.
"""

import os
import pwd
from pathlib import Path


def is_nameless() -> bool:
    """Whether the system has no name for this process's user."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return True
    return False


def stand_in() -> str:
    """What such a user is called where a name must be."""
    return f"uid-{os.getuid()}"


def name_user(home: Path) -> None:
    """Let libraries find a name and a home in the environment, where the system has none."""
    if is_nameless():
        for variable in ("USER", "LOGNAME"):
            os.environ.setdefault(variable, stand_in())
        os.environ.setdefault("HOME", str(home))
