"""The address of a webhook: a secret, as what makes such a URL work is in its path or its query."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import SecretStr


def check_webhook(value: object) -> SecretStr:
    """
    Raises:
        ValueError: it is no address of a webhook.
    """
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or _host(text) is None:
        raise ValueError('this is no address of a webhook: write "https://host/path"')
    return SecretStr(text)


def shown_webhook(url: SecretStr) -> str:
    """The address without what is secret of it."""
    return f"{_host(url.get_secret_value())}/…"


def _host(url: str) -> str | None:
    """Where a URL of the web leads to, as it may be shown."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or any(map(str.isspace, url)):
        return None
    return f"{parts.scheme}://{parts.hostname}{port}"
