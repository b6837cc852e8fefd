"""Hand each epoch's metrics to MLflow without making the training wait for it.

A tracking server that is away, or that hangs, must not end a training on a rented machine, nor let
the other processes wait for the first one. So a thread of its own logs, in order and none twice,
and catches up when MLflow answers again. What a process that was killed had not logged is in its
state, and the next one logs it.
"""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Self

from lumos.train.tracking import Run

_PAUSE_SECONDS = 30.0
# Without MLflow there is no model version, so the end waits: 5.50 USD of a p4d.
_END_SECONDS = 900.0

log = logging.getLogger(__name__)

Epochs = tuple[Mapping[str, float], ...]


class EpochLog:
    """The epochs of one run of MLflow; its thread lives while the ``with`` lasts."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._epochs: Epochs = ()
        self._beside: dict[int, Mapping[str, float]] = {}
        self._num_logged, self._is_away, self._is_over = 0, False, False
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        # A daemon: a process that must leave does not wait for an answer of MLflow.
        threading.Thread(target=self._work, name="epoch log", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def add(self, epochs: Epochs, beside: Mapping[str, float] | None = None) -> None:
        """Take all epochs so far, and what else is known of the last one; returns at once."""
        with self._changed:
            self._epochs = epochs
            if beside:
                self._beside[len(epochs) - 1] = beside
            self._changed.notify_all()

    def finish(self, epochs: Epochs, *, patience_seconds: float = _END_SECONDS) -> int:
        """Wait until MLflow has them all; gives the number of epochs that it has not.

        A warning names them: the training is done, and they are no reason to lose it.
        """
        self.add(epochs)
        until = time.monotonic() + patience_seconds
        with self._changed:
            while self._num_logged < len(epochs) and time.monotonic() < until:
                self._changed.wait(until - time.monotonic())
            num_missing = len(epochs) - self._num_logged
        if num_missing:
            log.warning(
                "MLflow has not answered for %.0f s: run %s lacks the metrics of epochs %d to %d",
                patience_seconds,
                self._run.run_id,
                len(epochs) - num_missing + 1,
                len(epochs),
            )
        return num_missing

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._is_away:
                    self._changed.wait(_PAUSE_SECONDS)
                while self._num_logged == len(self._epochs) and not self._is_over:
                    self._changed.wait()
                if self._is_over:
                    return
                epochs, beside = self._epochs, dict(self._beside)
            is_logged = self._deliver(epochs, beside)
            with self._changed:
                self._is_away = not is_logged
                if is_logged:
                    self._num_logged = len(epochs)
                self._changed.notify_all()

    def _deliver(self, epochs: Epochs, beside: Mapping[int, Mapping[str, float]]) -> bool:
        try:
            self._run.log_epochs(epochs, beside)
        except Exception as error:  # whatever MLflow, its database or the network raises
            if not self._is_away:
                log.warning(
                    "MLflow did not take epoch %d: training goes on, and its metrics follow (%s)",
                    self._num_logged + 1,
                    str(error).split("\n", 1)[0][:300],
                )
            return False
        if self._is_away:
            log.warning("MLflow answers again and has all epochs up to %d", len(epochs))
        return True
