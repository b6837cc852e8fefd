"""How a verb may end: what Airflow, machines and people tell apart by the exit code alone."""

DONE, FAULT, BAD_INPUT, REFUSED = 0, 1, 2, 3
RESUME = 75  # EX_TEMPFAIL of sysexits.h: the state is saved, the same command goes on from there
