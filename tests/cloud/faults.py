"""What goes wrong in the cloud, as a plan that a test writes down and a seed repeats."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "throttle", "capacity", "empty", "fail", "deny", "lost-answer", "drop", "hide", "slow", "hang"
]
TEST, AIRFLOW, NOBODY = "test", "airflow", "nobody"


@dataclass
class Call:
    """One API call as it came over the wire: each attempt of a client that retries is its own.

    Attributes:
        number: Counted from 1, over all services.
        service: As boto names it: ``ec2``, ``ssm``, ``s3``.
        action: As the API reference names it.
        caller: ``airflow``, ``test`` or the id of the instance whose role signed it.
        parameters: As sent; for S3 ``Bucket`` and ``Key``, for EC2 such as ``InstanceId.1``.
        at: Monotonic time.
        fault: What was done to it.
        status: Of the HTTP answer, whether or not the caller has got it.
    """

    number: int
    service: str
    action: str
    caller: str
    parameters: Mapping[str, Any]
    at: float
    fault: Kind | None = None
    status: int | None = None


@dataclass
class Rule:
    """One fault, and which calls it meets.

    Attributes:
        kind: ``throttle``, ``fail`` and ``deny`` answer with the service's own error;
            ``capacity`` with InsufficientInstanceCapacity; ``empty`` with a list of nothing;
            ``lost-answer`` executes the call and drops the connection; ``drop`` drops it first;
            ``slow`` executes it after ``seconds``; ``hang`` takes it and never answers, until the
            rule is removed; ``hide`` leaves what is younger than ``first``
            looks out of a listing, as an eventually consistent API does.
        service: Or any.
        action: Or any.
        nth: Of the calls that match, counted from 1 for this rule; default all.
        probability: Of each of those.
        times: The most faults of this rule.
        caller: ``airflow``, an instance's id, or ``instance`` for any of them.
        where: Parameters that the call must have, such as ``{"SubnetId": "subnet-1"}``.
        when: Any further condition.
        first: See ``hide``.
        seconds: See ``slow``.
    """

    kind: Kind
    service: str = "*"
    action: str = "*"
    nth: int | Sequence[int] | None = None
    probability: float = 1.0
    times: int | None = None
    caller: str = "*"
    where: Mapping[str, str] = field(default_factory=dict)
    when: Callable[[Call], bool] | None = None
    first: int = 2
    seconds: float = 1.0

    def meets(self, call: Call) -> bool:
        """Whether the call is one that this rule counts."""
        return (
            self.service in ("*", call.service)
            and self.action in ("*", call.action)
            and (
                self.caller in ("*", call.caller)
                or (self.caller == "instance" and call.caller.startswith("i-"))
            )
            and all(call.parameters.get(name) == value for name, value in self.where.items())
            and (self.when is None or self.when(call))
        )


class Faults:
    """The plan; the first rule that strikes decides.

    Args:
        rules: More can be added at any time.
        seed: Of the probabilities. With several callers at once their order is not repeated.
        before: Called with each call before anything is done, in the server's thread.
        after: Called when it was executed, before the answer leaves.
    """

    def __init__(
        self,
        *rules: Rule,
        seed: int = 0,
        before: Callable[[Call], None] | None = None,
        after: Callable[[Call], None] | None = None,
    ) -> None:
        self.rules = list(rules)
        self.before = before
        self.after = after
        self._random = random.Random(seed)
        self._met: Counter[int] = Counter()
        self._struck: Counter[int] = Counter()
        self._lock = threading.Lock()

    def add(self, rule: Rule) -> Rule:
        """Another one, from now on."""
        with self._lock:
            self.rules.append(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """End of a fault."""
        with self._lock:
            self.rules = [other for other in self.rules if other is not rule]

    def holds(self, rule: Rule) -> bool:
        """Whether it was not removed."""
        return any(other is rule for other in self.rules)

    def struck(self, rule: Rule) -> int:
        """How often it has."""
        return self._struck[id(rule)]

    def choose(self, call: Call) -> Rule | None:
        """The rule that strikes this call; the test's own clients are spared."""
        if call.caller == TEST:
            return None
        with self._lock:
            for rule in self.rules:
                if rule.meets(call) and self._strikes(rule):
                    self._struck[id(rule)] += 1
                    return rule
        return None

    def _strikes(self, rule: Rule) -> bool:
        self._met[id(rule)] += 1
        wanted = (rule.nth,) if isinstance(rule.nth, int) else rule.nth
        if wanted is not None and self._met[id(rule)] not in wanted:
            return False
        if rule.times is not None and self._struck[id(rule)] >= rule.times:
            return False
        return rule.probability >= 1 or self._random.random() < rule.probability
