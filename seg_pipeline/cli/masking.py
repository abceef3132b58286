"""Settings as they may be printed: without secrets."""

import re

from pydantic import SecretStr

MASK = "********"

_HARMLESS = frozenset(
    {
        "application_name", "channel_binding", "client_encoding", "connect_timeout", "db",
        "gssencmode",
        "health_check_interval", "keepalives", "max_connections", "protocol", "region",
        "socket_timeout",
        "ssl_cert_reqs", "sslmode", "target_session_attrs", "virtual_host",
    }
)  # fmt: skip
"""Names in an address's query whose values may be shown."""

_ADDRESS = re.compile(
    r"""(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)
        (?P<user>[^/?\#@\s]*@)?
        (?P<host>[A-Za-z0-9._,:\[\]-]*)
        (?P<path>/[^?\#@:\s]*)?
        (?:\?(?P<query>[^?\#@\s]*))?""",
    re.VERBOSE,
)
_PORTS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*)(:[0-9]*)?")


def shown(name: str, value: object) -> str:
    """A setting's value as it may be printed."""
    if value is None:
        return "-"
    if isinstance(value, SecretStr):
        return MASK
    return shown_address(str(value)) if name.endswith("_url") else str(value)


def shown_address(text: str) -> str:
    """The address without its user, its password and secrets in its query.

    An ambiguous address, such as one whose password holds a bare `/` or `@`, is masked from the
    scheme on. What a parser takes for its host may be the middle of a password.
    """
    match = _ADDRESS.fullmatch(text)
    if not match or not _is_plain_host(match["host"]):
        scheme, separator, _ = text.partition("://")
        return f"{scheme}://{MASK}" if separator and scheme.isalnum() else MASK
    user = f"{MASK}@" if match["user"] else ""
    query = f"?{_shown_query(match['query'])}" if match["query"] else ""
    return f"{match['scheme']}{user}{match['host']}{match['path'] or ''}{query}"


def _is_plain_host(text: str) -> bool:
    """Whether the text is names or addresses with ports.

    In `user:password` without an `@` behind it, no number is the port.
    """
    return all(_PORTS.fullmatch(host) for host in text.split(","))


def _shown_query(query: str) -> str:
    pairs = (pair.partition("=") for pair in query.split("&"))
    return "&".join(
        f"{name}={value if name in _HARMLESS else MASK}" if separator else MASK
        for name, separator, value in pairs
    )
