"""TLS with the authorities that the system trusts: what libpq means by `sslrootcert=system`."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SYSTEM: Final = "system"

_CERTIFICATE: Final = "~/.postgresql/postgresql.crt"
_KEY: Final = "~/.postgresql/postgresql.key"
_REVOKED: Final = "~/.postgresql/root.crl"


def trusting_the_system(said: Mapping[str, str]) -> ssl.SSLContext:
    """What checks a server's certificate as `verify-full` does. `said` are libpq's other parameters, by name; the files
    that it looks for without being told are looked for, too.

    Raises:
        OSError, ssl.SSLError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs()
    if ssl.HAS_ALPN:
        context.set_alpn_protocols(["postgresql"])
    if revoked := _file(said, "sslcrl", _REVOKED):
        context.load_verify_locations(cafile=revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if certificate := _file(said, "sslcert", _CERTIFICATE):
        # A key that has a password is an error, not a question at the terminal.
        context.load_cert_chain(certificate, _file(said, "sslkey", _KEY), password=lambda: "")
    return context


def _file(said: Mapping[str, str], name: str, default: str) -> str | None:
    if name in said:
        return said[name]
    path = Path(default).expanduser()
    return str(path) if path.is_file() else None
