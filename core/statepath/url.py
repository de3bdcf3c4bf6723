"""The state path: a URL, or a plain path, that names one store."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

from statepath.errors import InvalidArgumentError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+")
_BEFORE_SLASHES = re.compile(r"([^/\\]*?):(/*)")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SECRET = re.compile(r"key|secret|token|pass|cred|sig", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StateURL:
    """A parsed state path.

    Attributes:
        scheme: lower case; `file` for plain paths and drive letters.
        path: decoded; of a plain path the path itself.
        host, port, user: decoded, `None` where missing. Of several hosts (`one:5432,two`) `host` is all of them, and
            `port` is `None`.
        password: never shown: not in `repr`, not by `redacted`. Nor is the user, which is a token in some URLs.
        query: the backend's parameters, each given once.
    """

    scheme: str
    path: str
    host: str | None = None
    port: int | None = None
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    query: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    netloc: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> StateURL:
        """Parse a state path.

        Raises:
            InvalidArgumentError: it is empty, has control characters, an escape that is no UTF-8, a bad port, a
                parameter twice, or is nearly a URL (`s3:bucket`). No message quotes it.
        """
        if not text or not text.strip():
            raise InvalidArgumentError(
                "the state path is empty; give a folder or a URL such as s3://bucket/agents"
            )
        if _CONTROL.search(text):
            raise InvalidArgumentError(
                "the state path contains a control character; check for a stray line end"
            )
        match = _BEFORE_SLASHES.match(text)
        if match is None or _DRIVE.match(text):
            return cls("file", text)
        # A slip in a URL must not become a folder of that name in the working directory.
        if not _SCHEME.fullmatch(match[1]):
            if len(match[2]) < 2:
                return cls("file", text)
            raise InvalidArgumentError(
                "what stands before '://' is no URL scheme; write a URL such as s3://bucket/agents,"
                " or ./ before a folder of that name"
            )
        scheme = match[1].lower()
        if len(match[2]) < 2:
            raise InvalidArgumentError(
                f"write {scheme}:// with two slashes for a URL, or ./ before a folder of that name"
            )
        try:
            parts = urlsplit(text)
            # Of several hosts, as libpq takes them, each may have its port: they are the backend's to read.
            several = "," in parts.netloc.rpartition("@")[2]
            port = None if several else parts.port
        except ValueError as error:
            raise InvalidArgumentError(f"the {scheme} URL is malformed: {_plain(error)}") from None
        if parts.fragment:
            raise InvalidArgumentError(f"the {scheme} URL has a '#': write it as %23")
        try:
            path = unquote(parts.path, errors="strict")
            user, password = _decoded(parts.username), _decoded(parts.password)
            parameters = parse_qsl(parts.query, keep_blank_values=True, errors="strict")
        except UnicodeDecodeError:
            # Decoded to U+FFFD, what differs would become the same.
            raise InvalidArgumentError(
                f"the {scheme} URL has an escape that is no UTF-8; write ü as %C3%BC, for example"
            ) from None
        if _may_be_a_password(parts.netloc, [parts.path, *(name for name, _ in parameters)]):
            raise InvalidArgumentError(
                f"the {scheme} URL has an '@' behind the host and a ':': write / in a password as %2F and ? as %3F, or "
                "an @ that belongs to the path as %40"
            )
        if _CONTROL.search(path):
            raise InvalidArgumentError(f"the path of the {scheme} URL contains an encoded control character")
        query: dict[str, str] = {}
        for name, value in parameters:
            if name in query:
                raise InvalidArgumentError(f"the {scheme} URL gives the parameter {name!r} twice")
            query[name] = value
        return cls(
            scheme=scheme,
            path=path,
            host=parts.netloc.rpartition("@")[2].lower() if several else parts.hostname,
            port=port,
            user=user,
            password=password,
            query=MappingProxyType(query),
            netloc=parts.netloc,
        )

    def redacted(self) -> str:
        """The URL as it may be shown: no user, no password, and no value of any parameter. It names the same place."""
        if self.scheme == "file" and not self.netloc:
            return self.path
        user = "" if self.user is None and self.password is None else "…@"
        six = self.host is not None and ":" in self.host and "," not in self.host
        host = f"[{self.host}]" if six else self.host or ""
        port = f":{self.port}" if self.port is not None else ""
        query = "?" + "&".join(f"{name}=…" for name in self.query) if self.query else ""
        path = escaped(self.path)
        if _may_be_a_password(f"{user}{host}{port}", [path]):
            path = path.replace("@", "%40")
        return f"{self.scheme}://{user}{host}{port}{path}{query}"

    def betrayed_by(self, error: BaseException) -> bool:
        """Whether a traceback of the error quotes the password, the value of a parameter that is named like a secret,
        or the user as the URL has it; with escapes or without. A user alone is most often a name, which an error has
        to tell."""
        told = " ".join(_told(error)).casefold()
        texts = {told, unquote(told), unquote_plus(told)}
        secrets = [value for name, value in self.query.items() if _SECRET.search(name)]
        secrets += [self.password or "", f"{self.user}@" if self.user else ""]
        patterns = [_quoted(secret.casefold()) for secret in secrets if secret]
        return any(re.search(pattern, text) for pattern in patterns for text in texts)

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


def escaped(path: str) -> str:
    """The path as a URL has it, where it is still to be read: with escapes for what would mean something else."""
    return path.replace("%", "%25").replace("#", "%23").replace("?", "%3F")


def _decoded(part: str | None) -> str | None:
    return None if part is None else unquote(part, errors="strict")


def _quoted(secret: str) -> str:
    """A pattern of the secret, as it is or as Python writes it, but not as the beginning of a longer word: `postgres`
    is no secret in `postgresql`."""
    either = "|".join(map(re.escape, {secret, repr(secret)[1:-1]}))
    return f"(?:{either})" + ("(?![a-z])" if secret[-1].isalpha() else "")


def _told(error: BaseException) -> Iterator[str]:
    """What a traceback says of the error, and of what led to it."""
    chain = [error]
    for one in chain:
        yield f"{one} {one!r}"
        yield from map(str, getattr(one, "__notes__", ()))
        before = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        parts = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        chain += [each for each in (before, *parts) if each is not None and each not in chain]


def _may_be_a_password(netloc: str, told: list[str]) -> bool:
    """Whether what looks like a host, a port, and a path or parameters, all of which may be shown, is a user and a
    password with a `/` or a `?` in it."""
    return ":" in netloc.rpartition("]")[2] and "@" not in netloc and any("@" in one for one in told)


def _plain(error: ValueError) -> str:
    if "ort" in str(error):
        return "the port is not a number from 0 to 65535"
    return "check the host and its brackets"
