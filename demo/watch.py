"""Live progress: a table that redraws itself at a terminal, plain lines anywhere else."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from demo.client import TaskState

_COLOURS = {
    "success": "green",
    "running": "yellow",
    "deferred": "cyan",
    "failed": "red",
    "up_for_retry": "magenta",
    "skipped": "dim",
}
_QUIET = {"waiting", "scheduled", "queued"}


class Watch:
    """Shows what is going on; a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()
        self._shown: dict[tuple[str, str, str], str] = {}
        self._live = Live(console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        """Take over the terminal, if there is one."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give it back."""
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line of the story."""
        self.console.print(f"[dim]{self._clock}[/dim] {text}", highlight=False, soft_wrap=True)

    def show(self, tasks: Sequence[TaskState]) -> None:
        """The state of all tasks."""
        if self._live:
            self._live.update(self._table(tasks))
            return
        for task in tasks:
            key = (task.run.dag_id, task.run.run_id, task.task_id)
            if self._shown.get(key) == task.state or task.state in _QUIET:
                continue
            self._shown[key] = task.state
            took = f" {task.seconds:.0f} s" if task.is_over and task.seconds else ""
            self.say(f"{task.run.date} {task.run.dag_id}.{task.task_id} {task.state}{took}")

    @property
    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes}:{seconds:02d}"

    def _table(self, tasks: Sequence[TaskState]) -> Table:
        table = Table(title=f"LUMOS demo {self._clock}", title_justify="left")
        for name in ("date", "DAG", "task", "state"):
            table.add_column(name)
        table.add_column("seconds", justify="right")
        ordered = sorted(tasks, key=lambda task: (task.run.date, task.run.dag_id))
        for task in ordered:
            colour = _COLOURS.get(task.state, "white")
            table.add_row(
                str(task.run.date),
                task.run.dag_id,
                task.task_id,
                f"[{colour}]{task.state}[/{colour}]",
                f"{task.seconds:.0f}" if task.seconds else "",
            )
        return table
