"""What is wrong with one experiment ends its own verb, never that of the others."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lumos.verbs import BadInput

if TYPE_CHECKING:
    from lumos.experiment.declaration import Experiment

log = logging.getLogger(__name__)


class Faults:
    """Faults of single experiments, kept until all others are done."""

    def __init__(self) -> None:
        self.found: list[BadInput] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the fault of this block instead of raising it."""
        try:
            yield
        except BadInput as fault:
            self.keep(fault)

    def keep(self, fault: BadInput) -> None:
        """Keep one that was found; it is logged at once."""
        log.error("%s", fault)
        self.found.append(fault)

    def sound(
        self, experiments: Iterable["Experiment"], check: Callable[["Experiment"], object]
    ) -> tuple["Experiment", ...]:
        """Those that pass the check; the faults of the others are kept."""
        passed = []
        for experiment in experiments:
            with self.kept():
                check(experiment)
                passed.append(experiment)
        return tuple(passed)

    def inputs(self) -> dict[str, int | str]:
        """For the ledger: a run with faults is not the one that is done without."""
        return {"faults": len(self.found)} if self.found else {}

    def refuse(self, done: Sequence[str]) -> None:
        """End with what was kept, if anything was.

        Args:
            done: Names of the experiments that the verb is done with.

        Raises:
            BadInput: Each fault in its own words, and which experiments are done all the same.
        """
        if not self.found:
            return
        msg = "; ".join(str(fault) for fault in self.found)
        if done:
            msg += f". All other experiments are done: {', '.join(done)}"
        raise BadInput(msg) from self.found[0]
