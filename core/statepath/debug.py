"""Debug mode: `DEBUG=persistence:*` shows on stderr what statepath does.

The names are those of the loggers, with `persistence` in place of `statepath`: `persistence:engine` is the logger
`statepath.engine`. A record carries its facts as extras (`key`, `code`, …), and never the content of a document.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Final, TextIO

VARIABLE: Final = "DEBUG"
EVERYTHING: Final = "persistence:*"
LOGGER: Final = "statepath"

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def enable_debug(names: str | None = None, stream: TextIO | None = None) -> Callable[[], None]:
    """Log what `names` selects, from the level DEBUG on; a function that ends it again.

    Parameters:
        names: patterns separated by commas or spaces, such as `persistence:*` or `persistence:engine`; one that begins
            with `-` leaves out. `None`: the variable `DEBUG`. What names nothing of ours changes nothing,
            and so does a second call before the end.
        stream: where to; `None`: stderr.
    """
    patterns = (os.environ.get(VARIABLE, "") if names is None else names).replace(",", " ").split()
    wanted = [pattern for pattern in patterns if not pattern.startswith("-")]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("-")]
    ours = any(pattern == "*" or pattern.startswith("persistence:") for pattern in wanted)
    logger = logging.getLogger(LOGGER)
    if not ours or any(isinstance(handler.formatter, Facts) for handler in logger.handlers):
        return lambda: None

    def selected(record: logging.LogRecord) -> bool:
        name = f"persistence:{record.name.removeprefix(LOGGER).removeprefix('.')}"
        return any(fnmatchcase(name, pattern) for pattern in wanted) and not any(
            fnmatchcase(name, pattern) for pattern in unwanted
        )

    handler = logging.StreamHandler(stream)
    handler.setFormatter(Facts("%(asctime)s %(levelname)s %(name)s %(message)s"))
    handler.addFilter(selected)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)

    def disable() -> None:
        logger.removeHandler(handler)
        logger.setLevel(before)

    return disable


class Facts(logging.Formatter):
    """A line a record, with its extras behind the message: `key=tasks/task_1 code=conflict`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is that of `logging`
        extras = [f"{name}={value}" for name, value in vars(record).items() if name not in _STANDARD]
        return " ".join([super().formatMessage(record), *extras])


__all__ = ["Facts", "enable_debug"]
