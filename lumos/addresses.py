"""Addresses that hold a password: checked before anything connects, and shown without it.

A password with ``@``, ``#``, ``/`` or ``?`` as it is splits an address in the wrong place: part of
it becomes the host, which name servers are then asked for and error messages quote.
"""

import re
from urllib.parse import urlsplit

_AUTHORITY = re.compile(r"[^:/?#]+://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def refuse_unencoded(variable: str, address: str) -> None:
    """Refuse an address that cannot be meant as it would be read.

    Args:
        variable: The environment variable that holds it, for the message.
        address: ``scheme://user:password@host:port/...``; anything else has no password.

    Raises:
        BadInput: Its password is not percent-encoded. No part of it is quoted.
    """
    # Here, because DAG files import this module and must parse in no time.
    from lumos.verbs import BadInput

    found = _AUTHORITY.fullmatch(address)
    if found is None:
        return
    authority, rest = found["authority"], found["rest"]
    user, at, _ = authority.rpartition("@")
    is_split_wrongly = "@" in user or "@" in rest or "#" in rest
    # A path may hold any character where there is no host that it could have been part of.
    if (authority and is_split_wrongly) or (at and _LONE_PERCENT.search(user)):
        msg = (
            f"the address in {variable} is not a URL: percent-encode user and password in it "
            "(@ as %40, # as %23, / as %2F, ? as %3F, % as %25)"
        )
        raise BadInput(msg)


def without_password(address: str) -> str:
    """An address as it may be shown."""
    password = urlsplit(address).password
    return address.replace(f":{password}@", ":***@") if password else address
