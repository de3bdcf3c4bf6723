"""A text in a person's editor, in a private place, and not lost when it cannot be stored."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Self

from statepath.cli.interrupts import uninterrupted
from statepath.cli.output import Output
from statepath.cli.running import command_line
from statepath.cli.temporary import temporary_files
from statepath.engine.ids import encode_id, parse_ref
from statepath.errors import InvalidArgumentError, StateError

VARIABLES: Final = ("VISUAL", "EDITOR")
DEFAULT: Final = "vi"


class Draft:
    """A document being edited: a file of mode 0600 in a folder of mode 0700, where the editor's own copies stay
    private, too. It is removed at the end, unless it could not be stored."""

    def __init__(self, document: str, text: bytes) -> None:
        self._document = document
        self._text = text
        self._kept = False
        with temporary_files():
            self._folder = tempfile.mkdtemp(prefix="statepath-")
            self.path = os.path.join(self._folder, f"{encode_id(parse_ref(document)[1])}.json")
            try:
                with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(text)
            except BaseException:
                shutil.rmtree(self._folder, ignore_errors=True)
                raise

    def edit(self) -> None:
        """Run the editor and wait for its end.

        Raises:
            InvalidArgumentError: it cannot be started, or ended with an error; nothing is to be stored then.
        """
        command = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), DEFAULT)
        try:
            with uninterrupted():
                done = subprocess.run([*shlex.split(command), self.path], check=False)  # noqa: S603 - the user's
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise InvalidArgumentError(
                f"the editor {command!r} cannot be started: {why}; name another one in EDITOR"
            ) from None
        if done.returncode:
            raise InvalidArgumentError(
                f"the editor {command!r} ended with {done.returncode}: nothing was changed"
            )

    @property
    def changed(self) -> bool:
        return self.read() != self._text

    def read(self) -> bytes:
        """The text as it is now."""
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise InvalidArgumentError("the editor removed the file: nothing was changed") from None
        except OSError as error:
            raise InvalidArgumentError(
                f"what the editor left in {self.path} cannot be read: {error.strerror}"
            ) from None

    @contextmanager
    def kept_on_failure(self, output: Output, state_path: str | None) -> Iterator[None]:
        """Keep the text where it is if it was changed and is not stored, and say where."""
        try:
            yield
        except BaseException as error:
            if not self._is_to_keep():
                raise
            self._kept = True
            with suppress(OSError):  # it may be somebody else's by now, as of an editor that runs as root
                os.chmod(self.path, 0o600)
            output.note(f"your text is kept in {self.path}")
            if isinstance(error, StateError):
                again = command_line(state_path, "put", self._document, self.path)
                output.note(f"to store it in place of what is there: {again}")
            raise

    def _is_to_keep(self) -> bool:
        """Whether it may be somebody's work: what cannot be read may be."""
        try:
            return self.changed
        except InvalidArgumentError:
            return os.path.exists(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            shutil.rmtree(self._folder, ignore_errors=True)
