"""Whether a request that changes something comes from a page of this very server.

Airflow's cookie is ``SameSite=lax``, which keeps it out of a POST from another site; but a sibling
subdomain, and another port of the host, are the same *site*.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def is_our_own(headers: Mapping[str, str], base_url: str) -> bool:
    """Whether a browser sent it from our page, or no browser did.

    ``Sec-Fetch-Site`` is set by the browser, and no page can change it, but only over https and to
    localhost. ``Origin`` is set on every POST. It is compared with the address that the browser
    asked for: ``Host``, or ``[api] base_url`` where a proxy has rewritten that. The scheme of
    ``Host`` is not known behind a proxy that ends TLS, and browsers send no lax cookie from http
    to https. No ``X-Forwarded-*`` header is believed here.

    Args:
        headers: Of the request, by lower-case names.
        base_url: Of Airflow's own settings; may be empty.
    """
    # Who sends a token in a header is no browser, and nobody can make a browser send one.
    if headers.get("authorization", "").lower().startswith("bearer "):
        return True
    if site := headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = _address(headers.get("origin", ""))
    if origin is None:
        return False
    scheme, *_ = origin
    return origin in (_address(f"{scheme}://{headers.get('host', '')}"), _address(base_url))


def _address(text: str) -> tuple[str, str, int] | None:
    """Scheme, host and port; none of ``null`` and of what is no address."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        return None
    return parts.scheme, parts.hostname, port or _PORTS[parts.scheme]
