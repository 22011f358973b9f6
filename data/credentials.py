"""Credentials that stand in a URI: found, and masked.

What a recipe says is copied in plain text: into ``run.yaml``, the command of a job, the dashboard and a Kubernetes
manifest. A URI in it may therefore name a place, and never a secret.
"""

from __future__ import annotations

import re

from data.errors import ConfigError

_AUTHORITY = re.compile(r"^([a-z][a-z0-9+.-]*)://([^/?#]*)", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^?#]*@")
_PARAMETER = re.compile(r"([?&;])([^=&;#]+)=([^&;#]*)")
_SECRET = re.compile(
    r"secret|passw|pwd|token|signature|^sig$|credential$|^key$|(access|account|api|private)[._-]?key", re.IGNORECASE
)
MASK = "***"


def refuse_credentials(name: str, value: str) -> None:
    """Refuse a value that is a URI with a password or a secret in it.

    A user alone is none (``hdfs://me@host``, ``abfs://container@account...``), but for HTTP, where it may be a token.

    Args:
        name: the key or argument that holds it.

    Raises:
        ConfigError: names it and shows the value, masked.
    """
    if masked(value) != value:
        raise ConfigError(
            f"{name} = {masked(value)!r} holds credentials, and what a run is told is kept and shown in plain text",
            remedy="give the address alone here, and the credentials as environment variables of the nodes "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY ...; for `fleming submit --kuberay` in a Secret: --secret)",
        )


def masked(uri: str) -> str:
    """The URI with ``***`` in the place of credentials; itself when there are none.

    Example: ``masked("s3://AKIA:abc@bucket/runs")`` is ``"s3://***@bucket/runs"``.
    """
    found = _AUTHORITY.match(uri)
    if not found:
        return uri
    if _has_password(*found.groups()):
        uri = _USER.sub(f"{MASK}@", uri, count=1)
    return _PARAMETER.sub(lambda p: f"{p[1]}{p[2]}={MASK}" if p[3] and _SECRET.search(p[2]) else p[0], uri)


def _has_password(scheme: str, authority: str) -> bool:
    user, separator, _ = authority.rpartition("@")
    if separator:
        return bool(user.partition(":")[2]) or (scheme.lower().startswith("http") and bool(user))
    # A secret with a slash in it, as those of AWS have, ends what a parser takes for the authority: KEY:SEC/RET@bucket.
    _, _, port = authority.rpartition("]")[2].partition(":")
    return bool(port) and not port.isdigit()
