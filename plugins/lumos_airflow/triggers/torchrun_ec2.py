"""Watch one launch from the triggerer: no worker slot is held, and nothing is changed.

The trigger only looks, and hands on the log; a worker acts on what it saw. So it may be
restarted, or run twice, at any moment. Its limits travel with it as times of day.
"""

import asyncio
import datetime as dt
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

from airflow.triggers.base import BaseTrigger, TriggerEvent
from botocore.exceptions import BotoCoreError, ClientError

from lumos.cloud import Cloud, Machine
from lumos.host.folder import Folder
from lumos.host.job import HEARTBEAT, LOG, RESULT, Result, chunk_name, unpack_lines
from lumos_airflow.hooks.torchrun_ec2 import STARTING, TorchrunEc2Hook
from lumos_airflow.record import End, Record, combined
from lumos_airflow.refusals import Refused
from lumos_airflow.triggers.silence import Silence
from lumos_airflow.triggers.threads import in_thread

What = Literal["online", "ended", "lost", "gone", "again", "late"]

# In successful looks, one a poll. A machine writes its pulse at every one.
_QUIET, _SILENT, _NEVER_SEEN = 4, 12, 24
# After its deadline a verb has a while to save: this long Airflow waits for it to say so.
GRACE = dt.timedelta(minutes=5)
_SEEN = "seen"
_DEAD_COMMANDS = {"Failed", "TimedOut", "Cancelled", "Undeliverable", "Terminated"}
_COMPANIONS_SECONDS = 120.0
_BEGIN_SECONDS = 60.0


class LaunchTrigger(BaseTrigger):
    """Looks every ``poll_seconds`` until a worker is needed.

    A look that fails says nothing about the machine: every wait here, but for capacity, is counted
    in looks that succeeded.

    Args:
        record: What was written before the task was deferred, as JSON.
        cloud: The deployment, as JSON.
        machine: What the launch runs on, as JSON.
        not_before: When to ask for capacity again (ISO time); of a launch that got none.
    """

    def __init__(
        self,
        *,
        record: dict[str, Any],
        cloud: dict[str, Any],
        machine: dict[str, Any],
        not_before: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = Record.model_validate(record)
        self.cloud = Cloud.model_validate(cloud)
        self.machine = Machine.model_validate(machine)
        self.not_before = not_before
        self._hook = TorchrunEc2Hook(self.cloud)
        self._launch = self._hook_folder = None
        self._cursor: dict[str, int] = {}
        self._results: dict[str, Result] = {}
        self._silences: defaultdict[str, Silence] = defaultdict(Silence)
        self._gaps = self._num_unseen = 0
        # Successful looks: at a boot, since the deadline, since the first result.
        self._boot_looks = self._late_looks = self._result_looks = 0
        self._is_cursor_read = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Where this class is found again, and its arguments."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "record": self.record.model_dump(mode="json"),
                "cloud": self.cloud.model_dump(mode="json"),
                "machine": self.machine.model_dump(mode="json"),
                "not_before": self.not_before,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: what was seen, of which launch."""
        while True:
            try:
                event = await in_thread(self.look)
            except (ClientError, BotoCoreError, OSError, Refused) as error:
                # An instance runs on while AWS throttles us or our credentials are at fault, and so
                # does the wait for it.
                self.log.warning("looking again in %g s: %s", self.machine.poll_seconds, error)
                event = None
            if event is not None:
                yield TriggerEvent(event)  # type: ignore[no-untyped-call]
                return
            await asyncio.sleep(self.machine.poll_seconds)

    async def on_kill(self) -> None:
        """A person ended, cleared or marked the task: nothing of it may run on."""
        await in_thread(self._hook.end, self.record)

    def look(self) -> dict[str, Any] | None:
        """Look once; what a worker should know, if there is anything."""
        if self.record.state == "replacing":
            return self._look_for_remains()
        now = dt.datetime.now(dt.UTC)
        if self.record.state == "launching":
            is_time = self.not_before is None or now >= dt.datetime.fromisoformat(self.not_before)
            return self._event("again") if is_time else None
        seen = self._look_at_boot() if self.record.state == "booting" else self._look_at_verb()
        if seen is None and now > self.record.deadline:
            self._late_looks += 1
            if self._seconds(self._late_looks) > GRACE.total_seconds():
                return self._event("late", f"it had not ended {GRACE} after its deadline")
        return seen

    def _seconds(self, looks: int) -> float:
        """How long so many successful looks take at least."""
        return looks * self.machine.poll_seconds

    def _look_for_remains(self) -> dict[str, Any] | None:
        found = self._hook.describe(self.record.instance_ids)
        if any(each.state != "terminated" for each in found.values()):
            return None
        # EC2 may answer without one that it knows; it shows one for an hour after its end.
        self._num_unseen += 1
        is_sure = len(found) == len(self.record.instance_ids) or self._num_unseen > _QUIET
        return self._event("gone") if is_sure else None

    def _look_at_boot(self) -> dict[str, Any] | None:
        ids = self.record.instance_ids
        found = self._hook.describe(ids)
        dead = [each for each in found.values() if each.state not in STARTING]
        if dead:
            return self._event("lost", f"{dead[0].instance_id} was {dead[0].state} while it booted")
        if len(found) == len(ids) and self._hook.online(ids) == set(ids):
            return self._event("online")
        self._boot_looks += 1
        if self._seconds(self._boot_looks) > self.machine.boot_minutes * 60:
            msg = f"no command was taken {self.machine.boot_minutes} minutes after the start"
            return self._event("lost", msg)
        return None

    def _look_at_verb(self) -> dict[str, Any] | None:
        folder = Folder(self._hook.s3, f"{self._hook.jobs.uri}/{self.record.key}")
        launch = folder.of(self.record.launch_folder)
        self._load_cursor(launch)
        pulses = {each: self._read_on(launch, each) for each in self.record.instance_ids}
        if self._has_all():
            return self._ended()
        missing = [each for each in self.record.instance_ids if each not in self._results]
        for each in missing:
            looks = self._listen(launch, each, pulses[each])
            end = self._silent_end(each, looks, has_begun=pulses[each] is not None)
            if end is not None:
                return self._event("ended", end=end)
        return None

    def _has_all(self) -> bool:
        """Whether all have answered, or enough have and the rest had time to."""
        ids, results = self.record.instance_ids, self._results
        if not results or self._is_log_due():
            return False
        if len(results) == len(ids):
            return True
        self._result_looks += 1
        first_said = ids[0] in results or any(each.code for each in results.values())
        return first_said and self._seconds(self._result_looks) > _COMPANIONS_SECONDS

    def _ended(self) -> dict[str, Any]:
        ids = [each for each in self.record.instance_ids if each in self._results]
        end = combined([self._results[each] for each in ids])
        return self._event("ended", end=end)

    def _is_log_due(self) -> bool:
        """Whether a chunk that a result counts was not seen yet; a hole is not waited for long."""
        behind = {
            each: result.num_chunks - self._cursor.get(each, 0)
            for each, result in self._results.items()
            if result.num_chunks > self._cursor.get(each, 0)
        }
        if not behind:
            return False
        self._gaps += 1
        if self._gaps < _QUIET:
            return True
        for each, number in behind.items():
            self.log.warning("%d chunks of the log of %s are missing", number, each)
        return False

    def _read_on(self, launch: Folder, instance_id: str) -> dt.datetime | None:
        """Hand on what is new of a machine's log; gives the time of its newest pulse, by S3."""
        folder = launch.of(instance_id)
        cursor = self._cursor.get(instance_id, 0)
        listed = folder.list(after=f"{LOG}{cursor:08d}")
        chunks = sorted(name for name in listed if name.startswith(LOG))
        for name in chunks:
            number = int(name.removeprefix(LOG))
            found = launch.read(chunk_name(instance_id, number))
            if number != cursor + 1 and self._gaps < _QUIET:
                self._gaps += 1  # S3 lists all that was written, so this is not seen in peace
                break
            if number != cursor + 1:
                self.log.warning("chunks %d to %d of the log are missing", cursor + 1, number - 1)
            self._say(instance_id, found.data if found else b"")
            cursor = self._cursor[instance_id] = number
        if chunks:
            self._store_cursor(launch)
        if RESULT in listed and instance_id not in self._results:
            result = folder.read(RESULT)
            assert result is not None
            self._results[instance_id] = Result.model_validate_json(result.data)
        return listed.get(HEARTBEAT)

    def _listen(self, launch: Folder, instance_id: str, pulse: dt.datetime | None) -> int:
        """How many successful looks a machine was silent for, this one included."""
        silence = self._silences[instance_id]
        if silence.looks >= _QUIET:
            # While S3 can be read but not written, no machine is heard: this write, and with it
            # the look, fails then too.
            self._store_cursor(launch)
        return silence.heard(pulse)

    def _say(self, instance_id: str, data: bytes) -> None:
        place = f"[{instance_id}] " if len(self.record.instance_ids) > 1 else ""
        for level, text in unpack_lines(data):
            self.log.log(level if level in _LEVELS else logging.INFO, "%s%s", place, text)

    def _silent_end(self, instance_id: str, looks: int, *, has_begun: bool) -> End | None:
        """How it ended on a machine that has not said so and never will; ``None`` while it may."""
        if looks < _QUIET:
            return None
        found = self._hook.describe([instance_id]).get(instance_id)
        if found is not None and found.state not in STARTING:
            return _lost(f"{instance_id} was {found.state} and had not said how the verb ended")
        if not has_begun:
            return self._never_begun(instance_id, looks)
        if looks > _SILENT:
            why = f"has said nothing for {looks} looks ({self._seconds(looks):.0f} s)"
            return _lost(f"{instance_id} runs, and {why}")
        return None

    def _never_begun(self, instance_id: str, looks: int) -> End | None:
        assert self.record.command_id is not None
        found = self._hook.invocation(self.record.command_id, instance_id)
        if found is not None and found.status in _DEAD_COMMANDS:
            said = f": {found.error}" if found.error else ""
            why = f"the command on {instance_id} was {found.status} before the verb{said}"
            # What fails so (a right to the bucket, a broken image) fails on every other machine.
            is_fault = found.status == "Failed"
            return End(code=1, cause="ended", last_error=why) if is_fault else _lost(why)
        waited = self._seconds(looks)
        if waited > self._seconds(_NEVER_SEEN) + _BEGIN_SECONDS:
            return _lost(f"{instance_id} did not begin within {waited:.0f} s")
        return None

    def _load_cursor(self, launch: Folder) -> None:
        if self._is_cursor_read:
            return
        if found := launch.read(_SEEN):
            pairs = (line.split() for line in found.data.decode().splitlines())
            self._cursor = {instance_id: int(number) for instance_id, number in pairs}
        self._is_cursor_read = True

    def _store_cursor(self, launch: Folder) -> None:
        """After a restart of the triggerer the log goes on here; said twice rather than lost."""
        lines = [f"{instance_id} {number}\n" for instance_id, number in self._cursor.items()]
        launch.write(_SEEN, "".join(lines).encode())

    def _event(self, what: What, why: str = "", *, end: End | None = None) -> dict[str, Any]:
        return {
            "what": what,
            "launch": self.record.launch,
            "state": self.record.state,
            "why": why,
            "end": None if end is None else end.model_dump(mode="json"),
        }


_LEVELS: Mapping[int, str] = {
    number: logging.getLevelName(number) for number in (10, 20, 30, 40, 50)
}


def _lost(why: str) -> End:
    return End(code=-1, cause="lost", last_error=why)
