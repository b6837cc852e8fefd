"""Run Command of Systems Manager, with an agent that executes what it is sent.

Differs from AWS: one command document, AWS-RunShellScript; instances are named by id, not by
tags; CloudWatch and SNS options are accepted and do nothing; nothing is paged; an
``executionTimeout`` may be shorter than 5 seconds, which the real agent turns into an hour.
"""

import datetime as dt
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from moto.core.responses import ActionResult
from moto.ssm.exceptions import SSMException

from tests.cloud.command import Command
from tests.cloud.ec2 import Hiding
from tests.cloud.instance import Instance

_DOCUMENT = "AWS-RunShellScript"
_PARAMETERS = {"commands", "workingDirectory", "executionTimeout"}
_PLUGIN = "aws:runShellScript"


class Ssm:
    """Actions of Systems Manager, and the commands they sent."""

    def __init__(self, instances: Mapping[str, Instance]) -> None:
        self.commands: list[Command] = []
        self._instances = instances
        self._hiding = Hiding()

    def actions(self) -> Mapping[str, Callable[..., ActionResult]]:
        """By the name of moto's method."""
        return {
            "send_command": lambda call: self._send(call),
            "cancel_command": lambda call: self._cancel(call),
            "list_commands": lambda call: self._list(call),
            "list_command_invocations": lambda call: self._invocations(call),
            "get_command_invocation": lambda call: self._invocation(call),
            "describe_instance_information": lambda call: self._information(call),
        }

    def _send(self, call: Any) -> ActionResult:
        document, parameters = call._get_param("DocumentName"), call._get_param("Parameters", {})
        if document != _DOCUMENT:
            raise SSMException("InvalidDocument", f"Only {_DOCUMENT} is emulated: {document}")
        if set(parameters) - _PARAMETERS or not parameters.get("commands"):
            raise SSMException("InvalidParameters", f"{_DOCUMENT} has {sorted(_PARAMETERS)}")
        ids = call._get_param("InstanceIds", [])
        offline = [name for name in ids if name not in self._instances]
        offline += [
            name for name in ids if name not in offline and not self._instances[name].online
        ]
        if offline or not ids:
            msg = f"Instances {offline} not in a valid state for account"
            raise SSMException("InvalidInstanceId", msg)
        command_id = str(uuid.uuid4())
        new = [
            Command(
                command_id,
                self._instances[name],
                lines=parameters["commands"],
                folder=(parameters.get("workingDirectory") or [""])[0],
                execution_seconds=float((parameters.get("executionTimeout") or ["3600"])[0]),
                delivery_seconds=float(call._get_param("TimeoutSeconds") or 3600),
                comment=call._get_param("Comment") or "",
            )
            for name in ids
        ]
        self.commands += new
        for command in new:
            command.start()
        return ActionResult({"Command": _command(new)})

    def _found(self, call: Any, action: str | None = None) -> list[Command]:
        command_id, instance_id = call._get_param("CommandId"), call._get_param("InstanceId")
        if command_id and not any(command.id == command_id for command in self.commands):
            raise SSMException("InvalidCommandId", f"The command ID is not valid: {command_id}")
        return [
            command
            for command in self.commands
            if command_id in (None, command.id)
            and instance_id in (None, command.instance_id)
            and not (action and self._hiding.hides(action, command.id + command.instance_id))
        ]

    def _cancel(self, call: Any) -> ActionResult:
        only = call._get_param("InstanceIds") or []
        for command in self._found(call):
            if not only or command.instance_id in only:
                command.cancel()
        return ActionResult({})

    def _list(self, call: Any) -> ActionResult:
        by_id: dict[str, list[Command]] = {}
        for command in self._found(call, "ListCommands"):
            by_id.setdefault(command.id, []).append(command)
        return ActionResult({"Commands": [_command(same) for same in by_id.values()]})

    def _invocations(self, call: Any) -> ActionResult:
        found = self._found(call, "ListCommandInvocations")
        details = bool(call._get_param("Details"))
        return ActionResult({"CommandInvocations": [_listed(one, details) for one in found]})

    def _invocation(self, call: Any) -> ActionResult:
        found = self._found(call, "GetCommandInvocation")
        if not found:
            raise SSMException("InvocationDoesNotExist", "The command ID and instance ID differ")
        (command,) = found
        return ActionResult(
            {
                "CommandId": command.id,
                "InstanceId": command.instance_id,
                "Comment": command.comment,
                "DocumentName": _DOCUMENT,
                "DocumentVersion": "$DEFAULT",
                "PluginName": _PLUGIN,
                "ResponseCode": -1 if command.code is None else command.code,
                "ExecutionStartDateTime": _iso(command.started_at),
                "ExecutionEndDateTime": _iso(command.ended_at),
                "Status": command.status,
                "StatusDetails": command.details,
                "StandardOutputContent": command.output,
                "StandardErrorContent": command.errors,
                "StandardOutputUrl": "",
                "StandardErrorUrl": "",
            }
        )

    def _information(self, call: Any) -> ActionResult:
        wanted = _wanted(call)
        return ActionResult(
            {
                "InstanceInformationList": [
                    {
                        "InstanceId": instance.id,
                        "PingStatus": "Online",
                        "LastPingDateTime": time.time(),
                        "AgentVersion": "3.3.0.0",
                        "PlatformType": "Linux",
                        "ResourceType": "EC2Instance",
                        "IPAddress": "127.0.0.1",
                    }
                    # One that has ended leaves at once; AWS says ConnectionLost for a while.
                    for instance in list(self._instances.values())
                    if instance.online
                    and (wanted is None or instance.id in wanted)
                    and not self._hiding.hides("DescribeInstanceInformation", instance.id)
                ]
            }
        )


def _wanted(call: Any) -> set[str] | None:
    filters = call._get_param("Filters") or call._get_param("InstanceInformationFilterList") or []
    wanted: set[str] | None = None
    for one in filters:
        name, values = one.get("Key") or one.get("key"), one.get("Values") or one.get("valueSet")
        if name != "InstanceIds":
            raise SSMException("InvalidFilterKey", f"Only InstanceIds is emulated: {name}")
        wanted = set(values) if wanted is None else wanted & set(values)
    return wanted


def _iso(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds")


def _command(invocations: Iterable[Command]) -> dict[str, Any]:
    """All invocations of one command, as SendCommand and ListCommands show them."""
    same = list(invocations)
    statuses = [command.status for command in same]
    open_ = [status for status in statuses if status in ("Pending", "InProgress", "Cancelling")]
    bad = [status for status in statuses if status != "Success"]
    status = (open_ or bad or statuses)[0]
    return {
        "CommandId": same[0].id,
        "DocumentName": _DOCUMENT,
        "Comment": same[0].comment,
        "InstanceIds": [command.instance_id for command in same],
        "Parameters": {"commands": same[0].lines},
        "RequestedDateTime": same[0].requested_at,
        "Status": status,
        "StatusDetails": status,
        "TargetCount": len(same),
        "CompletedCount": len(same) - len(open_),
        "ErrorCount": len(bad) - len(open_),
    }


def _listed(command: Command, details: bool) -> dict[str, Any]:
    plugin = {
        "Name": _PLUGIN,
        "Status": command.status,
        "StatusDetails": command.details,
        "ResponseCode": -1 if command.code is None else command.code,
        "Output": command.output[:2500],
    }
    return {
        "CommandId": command.id,
        "InstanceId": command.instance_id,
        "Comment": command.comment,
        "DocumentName": _DOCUMENT,
        "RequestedDateTime": command.requested_at,
        "Status": command.status,
        "StatusDetails": command.details,
        "CommandPlugins": [plugin] if details else [],
    }
