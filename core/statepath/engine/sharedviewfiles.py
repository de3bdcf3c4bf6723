"""The files of documents, logs and reports, written beside other handles that write the same ones.

Each is compared-and-swapped, after it was found out whether there is something newer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import cast

from statepath.backend import IF_ABSENT, Backend, IfAbsent, IfMatch, SupportsAppend, SupportsLazyWrites
from statepath.commit import FileChange, RemoveLog, RemoveReport, WriteLog, WriteReport
from statepath.encryption import look
from statepath.engine.documents import pretty
from statepath.engine.ids import LOGS, document_key, log_key, report_key
from statepath.engine.logfiles import lay
from statepath.engine.removing import remove_beside_others
from statepath.engine.replica import Replica
from statepath.engine.viewfiles import ViewFiles, in_parts, removes, trouble_of
from statepath.engine.views import render_view, shows_later
from statepath.errors import AlreadyExistsError, ConflictError, NotFoundError, StateError


class SharedViewFiles(ViewFiles):
    """As `ViewFiles`; `catch_up` learns what others have committed up to now."""

    def __init__(
        self,
        replica: Replica,
        backend: Backend,
        store: str,
        pending: Callable[[str], Sequence[FileChange]],
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(replica, backend, store, pending)
        self._catch_up = catch_up

    async def show(self, documents: Sequence[tuple[str, str]]) -> None:
        """As `ViewFiles.show`, unless the files show later versions."""
        await self._catch_up()
        backend = self._backend
        if not backend.capabilities.lazy_writes or not isinstance(backend, SupportsLazyWrites):
            await self._show_all({document_key(*document): document for document in documents})
            return
        entries, head = self._entries(documents), self._replica.head
        versions = {key: head if entry is None else entry.version for key, entry in entries.items()}

        def is_later(key: str, data: bytes) -> bool:
            return shows_later(data, key, self._store, versions[key])

        await backend.write_lazily(self._items(entries, self._replica.time), keep=is_later)

    async def _show_all(self, documents: Mapping[str, tuple[str, str]]) -> None:
        """Write the files, each a request of its own. Whoever deletes a document finds nothing where its file is still
        to be written: that is looked for again behind those that were new."""
        new: dict[str, tuple[str, str]] = {}
        try:
            await in_parts(partial(self._show, new), documents)
        except StateError as error:
            error.unwritten += tuple(new)  # the next attempt looks for them
            raise
        if new:
            await self._catch_up()
            await self._show_all(
                {key: document for key, document in new.items() if self._replica.get(*document) is None}
            )

    async def _show(self, new: dict[str, tuple[str, str]], key: str, document: tuple[str, str]) -> None:
        while True:
            when, stored = await self._stored(key)
            entry = self._replica.get(*document)
            version = self._replica.head if entry is None else entry.version
            if stored is not None and shows_later(stored, key, self._store, version):
                return
            if entry is None and when is IF_ABSENT:
                return
            with suppress(AlreadyExistsError, ConflictError):
                if entry is None:
                    await self._backend.delete(key, when=when)
                else:
                    await self._backend.write(
                        key, render_view(entry.json(), self._store, entry.version), when=when
                    )
                    if when is IF_ABSENT:
                        new[key] = document
                return

    async def write(self, files: Mapping[str, Sequence[FileChange]]) -> dict[str, StateError]:
        if any(key.startswith(LOGS) for key in files):
            try:
                await self._catch_up()  # what others have removed is not written
            except Exception as error:  # noqa: BLE001 - as where the files are written
                return dict.fromkeys(files, trouble_of(error))
        return await super().write(files)

    async def _replace_report(self, report: WriteReport | RemoveReport) -> None:
        """Write the report, or remove it, as the latest change that is known has it.

        The stored version is read first, then what was committed up to now: so whoever commits a later report finds
        this one, or has replaced what was read. Whoever removes it finds nothing where none was: that is looked for
        again behind the write.
        """
        key = report_key(report.id)
        while True:
            when, _ = await self._stored(key)
            await self._catch_up()
            report = self._latest(report)
            data = pretty(bytes(report.document)) if isinstance(report, WriteReport) else None
            # The same content is written, too: when a report was last written is what its file tells.
            if data is None and when is IF_ABSENT:
                return
            try:
                if data is None:
                    await self._backend.delete(key, when=when)
                else:
                    await self._backend.write(key, data, when=when)
            except (AlreadyExistsError, ConflictError):
                continue
            if when is not IF_ABSENT:
                return
            await self._catch_up()
            if self._latest(report) is report:
                return

    def _latest(self, report: WriteReport | RemoveReport) -> WriteReport | RemoveReport:
        """The latest change of the report that is known: this one, or one that came since."""
        for one in self._pending(report_key(report.id)):
            if isinstance(one, WriteReport | RemoveReport):
                report = one
        return report

    async def _remove_log(self, id: str, changes: Sequence[FileChange]) -> None:
        since = partial(self._text_since, id, changes)
        await remove_beside_others(self._backend, id, self._catch_up, since)
        # What others appended before the file went is met while it is still owed, and so written again.
        await self._catch_up()

    def _text_since(self, id: str, changes: Sequence[FileChange]) -> bytes:
        """What was appended to the session log since it was removed last."""
        text = bytearray()
        for change in (*changes, *self._pending(log_key(id))):
            if isinstance(change, RemoveLog):
                text.clear()
            elif isinstance(change, WriteLog):
                lay(text, change.offset, change.text.encode())
        return bytes(text)

    async def _write_piece(self, id: str, offset: int, data: bytes) -> None:
        """Write a piece of a session log. Others may write the same piece, or one that begins there and is longer; or
        have begun the log anew."""
        if self._backend.capabilities.append:
            appending = cast("SupportsAppend", self._backend)
            await appending.write_at(log_key(id), offset, data, cut=False)
            return
        key = f"{log_key(id)}/{offset:020d}"
        when: IfAbsent | IfMatch = IF_ABSENT
        while True:
            with suppress(AlreadyExistsError, ConflictError):
                await self._backend.write(key, data, when=when)
                return
            when, stored = await self._stored(key)
            if stored is not None and stored.startswith(data):
                return
            await self._catch_up()
            if removes(self._pending(log_key(id))):
                return

    async def _stored(self, key: str) -> tuple[IfAbsent | IfMatch, bytes | None]:
        """The condition for replacing what is there, and its content; `None` where there is none, or none that can be
        opened: then nothing is newer."""
        try:
            stored, etag = await look(self._backend, key)
        except NotFoundError:
            return IF_ABSENT, None
        return IfMatch(etag), stored
