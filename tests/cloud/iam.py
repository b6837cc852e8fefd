"""What a policy of IAM says to a call: an explicit denial first, then any allowance, else no.

Conditions are not looked at: the statements about S3 have none.
"""

import json
import re
from typing import Any

from lumos.settings import REPOSITORY

_FOLDER = REPOSITORY / "docs" / "aws"


def allows(policy: str, action: str, resource: str) -> bool:
    """Whether ``docs/aws/POLICY-policy.json`` allows it.

    Args:
        policy: Such as ``instance-role``.
        action: Such as ``s3:PutObject``.
        resource: Its ARN without the ``arn:aws:s3:::`` of S3.
    """
    statements = json.loads((_FOLDER / f"{policy}-policy.json").read_text())["Statement"]
    effects = {
        statement["Effect"]
        for statement in statements
        if action in _listed(statement["Action"])
        and any(_matches(pattern, resource) for pattern in _listed(statement["Resource"]))
    }
    return effects == {"Allow"}


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value


def _matches(pattern: str, resource: str) -> bool:
    """A star is any text, slashes too."""
    wanted = ".*".join(map(re.escape, pattern.removeprefix("arn:aws:s3:::").split("*")))
    return re.fullmatch(wanted, resource) is not None
