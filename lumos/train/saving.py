"""When a training state is due, and whether the last one is where it survives this machine."""

import logging
import time
from pathlib import Path

from lumos.train.mirror import ATTEMPTS, Mirror
from lumos.train.state import State, save_state

log = logging.getLogger(__name__)

# A long epoch of a large table must not be lost.
SAVE_EVERY_SECONDS = 600.0
# After a copy that failed: soon, and yet with time to train in between while storage is down.
COPY_AGAIN_SECONDS = 60.0
# A spot machine has two minutes from its notice to its end.
LEAVING_SECONDS = 60.0
_PAUSE_SECONDS = 1.0


class Saver:
    """Saves the states of one training, on the disk and in its mirror; the first process's.

    Args:
        folder: Of the states.
        mirror: Where they are copied to, if anywhere.
        recipe: Digest of the recipe that is trained.
    """

    def __init__(self, folder: Path, mirror: Mirror | None, *, recipe: str) -> None:
        self._folder, self._mirror, self._recipe = folder, mirror, recipe
        self._due_at = time.monotonic() + SAVE_EVERY_SECONDS
        self.is_safe = True

    @property
    def is_due(self) -> bool:
        """Whether it is time to save, though no epoch is over."""
        return time.monotonic() >= self._due_at

    def save(self, state: State, *, is_leaving: bool) -> None:
        """Save; a copy that fails is no reason to end, but a reason to try again soon.

        Args:
            state: To save.
            is_leaving: This process is about to end, so that later is never.
        """
        path = save_state(self._folder, state, recipe=self._recipe)
        self.is_safe = self._mirror is None or self._copy(self._mirror, path, is_leaving=is_leaving)
        pause = SAVE_EVERY_SECONDS if self.is_safe else COPY_AGAIN_SECONDS
        self._due_at = time.monotonic() + pause

    def _copy(self, mirror: Mirror, path: Path, *, is_leaving: bool) -> bool:
        end = time.monotonic() + (LEAVING_SECONDS if is_leaving else 0)
        while True:
            try:
                mirror.push(path, attempts=1 if is_leaving else ATTEMPTS)
            except OSError as error:
                failed = error
            else:
                return True
            if time.monotonic() >= end:
                break
            time.sleep(_PAUSE_SECONDS)
        log.log(
            logging.ERROR if is_leaving else logging.WARNING,
            "the training state %s is NOT safe, it is on this machine's disk only: %s",
            path.name,
            failed,
        )
        return False
