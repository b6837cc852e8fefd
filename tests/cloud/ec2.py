"""What moto's EC2 lacks: idempotent launches, states that take time, and machines behind them.

These functions replace the ones of moto's response class, whose wire format they keep.
"""

import base64
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import flask
from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError, InvalidInstanceIdError
from moto.ec2.responses import EC2Response

from tests.cloud.instance import Instance, World

USER_DATA_BYTES = 16_384  # API reference, RunInstances: before it is encoded
HIDE = "lumos.hide"  # of a request's environ: how many looks what is new stays out of listings


class Hiding:
    """Eventual consistency: nobody sees what is new in the first looks at it."""

    def __init__(self) -> None:
        self._looks: Counter[tuple[str, str]] = Counter()

    def hides(self, action: str, name: str) -> bool:
        """Counts a look at what has this name."""
        looks = flask.request.environ.get(HIDE, 0)
        if not looks:
            return False
        self._looks[action, name] += 1
        return self._looks[action, name] <= looks


class Ec2:
    """Actions of EC2, and the instances they launched."""

    def __init__(self, world: World) -> None:
        self.instances: dict[str, Instance] = {}
        self._world = world
        self._launched: dict[tuple[str, str], tuple[Any, Any]] = {}
        self._token_lock: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._hiding = Hiding()
        self._lock = threading.RLock()
        self._moto = {name: getattr(EC2Response, name) for name in self.actions()}

    def actions(self) -> Mapping[str, Callable[..., ActionResult]]:
        """By the name of moto's method."""
        return {
            "run_instances": lambda call: self._run(call),
            "terminate_instances": lambda call: self._end(call, "TerminateInstances"),
            "stop_instances": lambda call: self._end(call, "StopInstances"),
            "start_instances": lambda call: self._start(call),
            "describe_instances": lambda call: self._describe(call),
        }

    def _run(self, call: Any) -> ActionResult:
        token = call._get_param("ClientToken")
        if not token or call._get_param("DryRun"):
            return self._launch(call)
        # The API reference, "Ensuring idempotency": a token is for one zone where the request
        # names one by its subnet or placement, so the same token launches again in another zone;
        # other parameters in the same zone are IdempotentParameterMismatch; it stays valid for
        # at least 24 hours after the instance has ended.
        key = token, self._zone(call)
        parameters = dict(flask.request.form)
        with self._token_lock[token]:
            if key not in self._launched:
                answer = self._launch(call)
                self._launched[key] = parameters, answer
                return answer
        before, answer = self._launched[key]
        if before != parameters:
            raise EC2ClientError(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in "
                f"previous request(s): {sorted(set(before.items()) ^ set(parameters.items()))}",
            )
        return answer

    def _zone(self, call: Any) -> str:
        if subnet := call._get_param("SubnetId"):
            return call.ec2_backend.get_subnet(subnet).availability_zone
        nics = call._get_param("NetworkInterfaces", [])
        if nics and "SubnetId" in nics[0]:
            return call.ec2_backend.get_subnet(nics[0]["SubnetId"]).availability_zone
        return call._get_param("Placement.AvailabilityZone") or ""

    def _launch(self, call: Any) -> ActionResult:
        self._check(call)
        # moto launches MinCount, AWS as many of MaxCount as there is room for: here always room.
        call.params["MinCount"] = call._get_param("MaxCount", 1)
        with self._lock:  # until they are pending: moto makes them running
            answer = self._moto["run_instances"](call)
            records = answer.result.instances
            for record in records:
                record.iam_instance_profile = records[0].iam_instance_profile  # moto: its only one
                record.client_token = call._get_param("ClientToken")
                # moto says spot for a capacity-block too.
                record.lifecycle = call._get_param("InstanceMarketOptions.MarketType")
                # AWS: each has an address of its own in its subnet. Here they share this machine's.
                record.nics[0].private_ip_address = "127.0.0.1"
                self.instances[record.id] = Instance(record, self._world)
        return answer

    @staticmethod
    def _check(call: Any) -> None:
        if len(base64.b64decode(call._get_param("UserData") or b"")) > USER_DATA_BYTES:
            msg = f"User data is limited to {USER_DATA_BYTES} bytes"
            raise EC2ClientError("InvalidParameterValue", msg)
        image = call._get_param("ImageId")
        if image not in call.ec2_backend.amis:  # moto accepts any
            raise EC2ClientError(
                "InvalidAMIID.NotFound", f"The image id '[{image}]' does not exist"
            )

    def _end(self, call: Any, why: str) -> ActionResult:
        call.error_on_dryrun()
        ids = call._get_param("InstanceIds", [])
        records = call.ec2_backend.get_multi_instances_by_id(ids)
        changes = []
        for record in records:
            before = record.instance_state
            stopping = why == "StopInstances"
            self.instances[record.id].end(why, final="stopped" if stopping else "terminated")
            now = record.instance_state
            changes.append(
                {
                    "InstanceId": record.id,
                    "CurrentState": {"Code": now.code, "Name": now.name},
                    "PreviousState": {"Code": before.code, "Name": before.name},
                }
            )
        name = "StoppingInstances" if why == "StopInstances" else "TerminatingInstances"
        return ActionResult({name: changes})

    def _start(self, _call: Any) -> ActionResult:
        raise EC2ClientError("IncorrectInstanceState", "StartInstances is not emulated")

    def _describe(self, call: Any) -> ActionResult:
        with self._lock:
            answer = self._moto["describe_instances"](call)
        asked = call._get_param("InstanceIds", [])
        shown = []
        for reservation in answer.result["Reservations"]:
            ids = [record.id for record in reservation.instances]
            hidden = {name for name in ids if self._hiding.hides("DescribeInstances", name)}
            if lost := hidden.intersection(asked):
                raise InvalidInstanceIdError(sorted(lost))
            if not hidden:
                shown.append(reservation)
        return ActionResult({**answer.result, "Reservations": shown})
