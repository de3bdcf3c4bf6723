"""A setting's value as it may be shown: as it would be written in a file, and without what is secret of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from pydantic import SecretStr

from statepath.errors import InvalidArgumentError
from statepath.masterkey import is_master_key
from statepath.quantities import duration_text
from statepath.settings.kinds import NAMING, PATHS
from statepath.settings.webhookurl import shown_webhook
from statepath.url import StateURL

_SWITCHED_OFF: Final = (
    "alert_webhook",
    "backup_age",
    "key_age",
    "log_age",
    "log_bytes",
    "metrics_port",
    "mirror",
    "report_age",
    "report_bytes",
)


def shown(name: str, value: Any) -> Any:
    """The value of the setting, `None` for "auto"."""
    if name in PATHS and value is not None:
        try:
            return StateURL.parse(value).redacted()
        except InvalidArgumentError:
            return "(not a state path)"
    if name in NAMING and value is not None and is_master_key(value):
        return "(secret)"
    if name == "encryption_provider" and value is not None:
        kind, colon, _ = value.partition(":")
        return f"{kind}:…" if colon else kind  # what a provider is told may be a URL with a password
    if isinstance(value, SecretStr):
        return shown_webhook(value) if name == "alert_webhook" else "(secret)"
    if value is None and name in _SWITCHED_OFF:
        return "off"
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, tuple):
        return ("; " if name == "archive" else ", ").join(value)
    return value
