"""What a verb's process takes of its machine: its threads, how they wait, the memory it keeps.

:func:`set_up` is called once, at the entry point of a process (``lumos``, ``python -m lumos``,
``lumos-job``) and before anything imports torch: OpenMP reads its variables when it is loaded, and
never again. A program that imports :mod:`lumos` as a library is left as it is.
"""

import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path

_GROUP, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# How often a waiting thread of libgomp (torch, LightGBM, faiss and scikit-learn load it) looks for
# work before it sleeps. Its default of 300,000 keeps a core from a process that has work for it; a
# thread that sleeps at once costs its waking. docs/decisions/0016 has what lies between.
_LOOKS_BEFORE_SLEEP = "3000"
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of malloc.h
_PR_SET_THP_DISABLE = 41  # of prctl.h
_LARGEST_MMAP_THRESHOLD, _KEPT_BYTES = 32 << 20, 1 << 30  # glibc takes no larger threshold


def set_up() -> None:
    """Give this process its threads and its way with memory; variables of the user's stay."""
    os.environ.update(variables())
    keep_memory()


def variables() -> dict[str, str]:
    """What OpenMP is told, where the user has not said otherwise."""
    found = {"OMP_NUM_THREADS": str(num_threads())}
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        found["GOMP_SPINCOUNT"] = _LOOKS_BEFORE_SLEEP
    return found


def num_threads() -> int:
    """Threads that this process computes with: ``OMP_NUM_THREADS``, or else its share of cores.

    The ranks that torchrun started on a machine share its cores.
    """
    num_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # One number a level of nesting, such as 4,1. OpenMP ignores what is no number, as this does.
    given = re.match(r"\s*([1-9][0-9]*)\s*(,|$)", os.environ.get("OMP_NUM_THREADS", ""))
    if given and not (num_ranks > 1 and given[1] == "1" and _is_of_torchrun()):
        return int(given[1])
    return max(1, num_cores() // num_ranks)


def num_cores() -> int:
    """Cores that this process may use, by its affinity and the quotas of its control groups."""
    return max(1, min([len(os.sched_getaffinity(0)), *_quotas()]))


def keep_memory() -> None:
    """Let this process keep the memory that a step or a batch gives back, for the next one.

    By default glibc returns large blocks to Linux at once, and Linux fills each page with zeros
    when it is asked for again: a sixth of the processor's time of scoring, a fifth of training.
    Without glibc nothing is done. And numpy and pyarrow ask for huge pages, for which Linux moves
    other memory out of the way while the process waits: three quarters of the time to land a
    year. So there are none, here and in what this process starts.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


def _is_of_torchrun() -> bool:
    """Whether OMP_NUM_THREADS=1 is what torchrun sets for several ranks where nothing was set.

    It sets it in its own variables; Linux shows those that it was started with.
    """
    try:
        started_with = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return False
    return not re.search(rb"(^|\0)OMP_NUM_THREADS=", started_with)


def _quotas() -> Iterator[int]:
    """Whole cores that the control groups of this process grant, from the innermost outwards."""
    try:
        names = re.search(r"^0::(/.*)$", _GROUP.read_text(), re.MULTILINE)
    except OSError:
        return
    group = Path(names[1] if names else "/")
    for inner in (group, *group.parents):
        limit = _GROUPS / inner.relative_to("/") / "cpu.max"
        if limit.exists():
            quota, period = limit.read_text().split()
            if quota != "max":
                yield int(quota) // int(period)
