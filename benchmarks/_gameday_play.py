"""One fault, from its breaking to the proof that nothing of it is left: see gameday.py."""

import re
import sys
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks._gameday_registry import PATIENCE_SECONDS, wait_for
from benchmarks._gameday_system import Expected, System
from benchmarks._gameday_world import compare, shown

# Breaks something, yields once, and goes on when it was noticed.
Play = Generator[None, None, None]
_QUIET_SECONDS = 4
_NOTE_CHARACTERS = 100


@dataclass(frozen=True)
class Fault:
    """What is broken, who should say so, and what must be there in the end.

    Attributes:
        name: As the game day's list has it.
        play: Breaks something, yields until it was noticed, and mends it by the runbook.
        alert: What must be heard.
        begins: The state it starts from.
        ends: The undisturbed twin's.
        only: Tables that are compared; all, if none is named.
    """

    name: str
    play: Callable[[System], Play]
    alert: Expected
    ends: str
    begins: str = "yesterday"
    only: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What was seen, and nothing else.

    Attributes:
        alert: What was expected.
        seen: What was heard, or "nothing".
        said: Its beginning.
        seconds: From the fault to it.
        times_told: How often Slack heard that very alert.
        also: Other alerts that came.
        steps: Of the runbook, that were taken.
        is_mended: Whether they went well and the twin's rows are there.
        wrong: Rows lost or doubled.
        still_open: Alerts that nobody closed.
        tries: Of tasks that needed more than one, clearing them among it.
        note: What went otherwise.
    """

    name: str
    alert: str
    seen: str = "nothing"
    said: str = ""
    seconds: float | None = None
    times_told: int = 0
    also: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    is_mended: bool = False
    wrong: int | None = None
    still_open: list[str] = field(default_factory=list)
    tries: dict[str, int] = field(default_factory=dict)
    note: str = ""
    took_seconds: float = 0

    @property
    def is_noticed(self) -> bool:
        """By the right alert."""
        return self.seconds is not None

    def line(self) -> str:
        """One row of the table."""
        seconds = "-" if self.seconds is None else f"{self.seconds:.1f}"
        wrong = "?" if self.wrong is None else str(self.wrong)
        sections = list(dict.fromkeys(step.partition(":")[0] for step in self.steps))
        mended = ", ".join(sections) if self.is_mended else "NOT"
        return (
            f"{self.name:24} {self.alert:24} {self.seen[:24]:24} {seconds:>7} "
            f"{mended:34} {wrong:>5} {' '.join(self.note.split())[:_NOTE_CHARACTERS]}"
        )


HEADER = (
    f"{'fault':24} {'alert expected':24} {'alert seen':24} {'seconds':>7} "
    f"{'mended by the runbook':34} wrong"
)


def sentence(said: str) -> str:
    """The message of an alert, without what Slack needs around it."""
    texts = re.findall(r'"text": "((?:[^"\\]|\\.)*)"', said)
    return " | ".join(text for text in texts if len(text) > 40)[:400] or said


def _settle(system: System) -> None:
    """Wait until what was started has no more to say: a task's last callback outlives its run."""
    heard, since = len(system.heard()), time.monotonic()
    while time.monotonic() - since < _QUIET_SECONDS:
        time.sleep(0.1)
        if len(system.heard()) != heard:
            heard, since = len(system.heard()), time.monotonic()


def played(fault: Fault, system: System) -> Outcome:
    """Break, listen, mend, compare; whatever fails is said in the outcome."""
    outcome, started = Outcome(fault.name, fault.alert.name), time.monotonic()
    system.begin(fault.begins)
    play = fault.play(system)
    try:
        next(play)
        said = wait_for(lambda: fault.alert.seen(system), seconds=PATIENCE_SECONDS)
        if said:
            outcome.said = sentence(said)
            outcome.seen, outcome.seconds = fault.alert.name, time.monotonic() - system.broken
        elif others := system.names_heard():
            outcome.seen = ", ".join(dict.fromkeys(others))
        with suppress(StopIteration):
            next(play)
        wait_for(lambda: fault.alert.name not in system.open_alerts(), seconds=20)
        _settle(system)
        difference = compare(system.states.world, system.states.rows(fault.ends), only=fault.only)
        outcome.wrong = difference.number
        outcome.is_mended = outcome.is_noticed and not difference.number
        if difference.number:
            outcome.note = shown(difference)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        outcome.note = f"{type(error).__name__}: {error}"
    finally:
        play.close()
        system.tidy()
    outcome.tries = {
        task.task_id: task.try_number
        for task in system.airflow.tasks(system.runs)
        if task.try_number > 1
    }
    names = system.names_heard()
    outcome.times_told = names.count(fault.alert.name)
    outcome.also = [name for name in names if name != fault.alert.name]
    outcome.still_open = system.open_alerts()
    outcome.steps = list(system.done)
    outcome.took_seconds = time.monotonic() - started
    return outcome
