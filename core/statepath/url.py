"""The state path: a URL, or a plain path, that names one store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote, urlsplit

from statepath.errors import InvalidArgumentError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True)
class StateURL:
    """A parsed state path.

    Attributes:
        scheme: lower case; `file` for plain paths and drive letters.
        path: decoded; of a plain path the path itself.
        host, port, user: decoded, `None` where missing.
        password: never shown: not in `repr`, not by `redacted`.
        query: the backend's parameters, each given once.
    """

    scheme: str
    path: str
    host: str | None = None
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    query: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    netloc: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> StateURL:
        """Parse a state path.

        Raises:
            InvalidArgumentError: it is empty, has control characters, a bad port, or a parameter twice.
        """
        if not text or not text.strip():
            raise InvalidArgumentError("the state path is empty; give a folder or a URL such as s3://bucket/agents")
        if any(ord(char) < 32 or ord(char) == 127 for char in text):
            raise InvalidArgumentError("the state path contains a control character; check for a stray line end")
        match = _SCHEME.match(text)
        if match is None or _DRIVE.match(text):
            return cls("file", text)
        scheme = match[1].lower()
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise InvalidArgumentError(f"the {scheme} URL is malformed: {_plain(error)}") from None
        if parts.fragment:
            raise InvalidArgumentError(f"the {scheme} URL has a '#': write it as %23")
        query: dict[str, str] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name in query:
                raise InvalidArgumentError(f"the {scheme} URL gives the parameter {name!r} twice")
            query[name] = value
        return cls(
            scheme=scheme,
            path=unquote(parts.path),
            host=parts.hostname,
            port=port,
            user=unquote(parts.username) if parts.username is not None else None,
            password=unquote(parts.password) if parts.password is not None else None,
            query=MappingProxyType(query),
            netloc=parts.netloc,
        )

    def redacted(self) -> str:
        """The URL as it may be shown: no password, and no value of any parameter."""
        if self.scheme == "file":
            return self.path
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        query = "?" + "&".join(f"{name}=…" for name in self.query) if self.query else ""
        return f"{self.scheme}://{user}{self.host or ''}{port}{self.path}{query}"

    def only(self, *allowed: str) -> None:
        """Refuse query parameters that the backend does not know.

        Raises:
            InvalidArgumentError: names the parameter and those that are known.
        """
        for name in self.query:
            if name not in allowed:
                known = ", ".join(allowed) if allowed else "none"
                raise InvalidArgumentError(
                    f"{self.scheme} URLs have no parameter {name!r}; known parameters: {known}"
                )


def _plain(error: ValueError) -> str:
    return "the port is not a number from 0 to 65535" if "ort" in str(error) else "check the host and its brackets"
