"""Documents: `ls`, `show`, `put`, `edit`, `delete`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Annotated, Any

import msgspec
import typer
from pydantic import JsonValue

import statepath
from statepath import F, Filter, Store
from statepath.cli.editor import Draft
from statepath.cli.interrupts import interruptible
from statepath.cli.opening import reading, writing
from statepath.cli.options import DryRun, Json, Reference, StatePath, Yes
from statepath.cli.output import Output, amount, confirm, moment, preview, printable
from statepath.cli.running import asynchronous, command_line
from statepath.collection import Document, documents
from statepath.collection import Json as JsonObject
from statepath.discovery import connect
from statepath.engine.documents import encode_mapping, parse_untrusted, pretty
from statepath.engine.ids import check_id, parse_ref
from statepath.errors import ConflictError, InvalidArgumentError, NotFoundError
from statepath.settings import Settings

group = typer.Typer()


@group.command()
@asynchronous
async def ls(
    collection: Annotated[
        str | None,
        typer.Argument(
            help="A collection, or logs or reports; without one: all of them.", show_default=False
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            "-w",
            metavar="FIELD=VALUE",
            help="Only documents whose field has that value, which is JSON or else a text. May be repeated.",
        ),
    ] = None,
    order_by: Annotated[
        str | None,
        typer.Option(
            "--order-by",
            metavar="FIELDS",
            help="Fields joined by commas; -field descends.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="At most so many.", show_default=False)
    ] = None,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """List the collections, or the documents of one."""
    output = Output(as_json=as_json)
    wanted = filter_of(where or [])
    if collection in (None, "logs", "reports") and (wanted is not None or order_by is not None):
        raise InvalidArgumentError("--where and --order-by are about documents: name their collection")
    async with reading(state_path) as store:
        if collection is None:
            await _list_collections(store, output, limit)
        elif collection in ("logs", "reports"):
            ids = await (store.logs() if collection == "logs" else store.reports())
            for id in ids[:limit]:
                output.result({"id": id}, id)
        else:
            held = store.collection(collection)
            await _list_documents(
                store, documents(held, wanted, order_by=order_by, limit=limit), collection, output
            )


async def _list_collections(store: Store, output: Output, limit: int | None) -> None:
    stats = await store.stats()
    rows = [(name, count, stats.bytes[name]) for name, count in sorted(stats.documents.items())][:limit]
    if output.as_json:
        for name, count, size in rows:
            output.json({"collection": name, "documents": count, "bytes": size})
        return
    if rows:
        output.table(
            ("COLLECTION", "DOCUMENTS#", "SIZE#"), [(name, n, amount(size)) for name, n, size in rows]
        )
    else:
        output.note("the store holds no documents")


async def _list_documents(
    store: Store, found: statepath.Query[Document[JsonObject]], collection: str, output: Output
) -> None:
    if output.as_json:
        async for one in found:
            output.json(_facts(collection, one))
        return
    rows = [(printable(one.id), one.version, moment(one.modified), preview(one.value)) async for one in found]
    if rows:
        output.table(("ID", "VERSION#", "MODIFIED", "DOCUMENT"), rows)
    elif collection in store.collections():
        output.note(f"no document of {collection} matches")
    else:
        output.note(
            f"{collection} holds no documents; collections: {', '.join(store.collections()) or 'none'}"
        )


@group.command()
@asynchronous
async def show(document: Reference, state_path: StatePath = None, as_json: Json = False) -> None:
    """Show a document, or a report (reports/ID), as JSON."""
    output = Output(as_json=as_json)
    collection, slash, id = document.partition("/")
    async with reading(state_path) as store:
        if slash and collection == "reports":
            value = await store.read_report(check_id(id))
            facts: dict[str, Any] = {"collection": collection, "id": id, "value": value}
        else:
            found = await _read(store, document)
            value, facts = found.value, _facts(document, found)
    if as_json:
        output.json(facts)
    else:
        output.document(value)


@group.command()
@asynchronous
async def put(
    document: Reference,
    file: Annotated[
        str,
        typer.Argument(metavar="FILE|-", help="The JSON object to store; - reads stdin.", show_default=False),
    ],
    if_version: Annotated[
        int | None,
        typer.Option(
            "--if-version",
            min=0,
            help="Only if this is the stored version; 0: only if there is none.",
            show_default=False,
        ),
    ] = None,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Store a document, in place of the one that is there."""
    output = Output(as_json=as_json)
    collection, _ = parse_ref(document)
    settings = Settings.load(state_path)
    text = _read_file(file, settings.max_document)
    value = _identified(parse_untrusted(text, key=document, limit=settings.max_document), document)
    if if_version:
        await _check_version(document, if_version, state_path)
    async with writing(state_path) as store:
        seq = await store.collection(collection).put(value, if_version=if_version)
    output.result(_stored(document, seq), f"stored {document} as seq {seq}")


async def _check_version(document: str, version: int, state_path: str | None) -> None:
    """A missing store holds no version of anything, and is not to be created only to say so.

    Raises:
        ConflictError: there is no store.
    """
    try:
        async with reading(state_path):
            pass
    except NotFoundError as error:
        raise ConflictError(
            f"{document} does not exist, and the change was based on version {version}: {error}",
            key=document,
            base=version,
            current=0,
        ) from None


@group.command()
@asynchronous
async def edit(document: Reference, state_path: StatePath = None, as_json: Json = False) -> None:
    """Edit a document in $VISUAL or $EDITOR, and store it if nobody else has changed it meanwhile."""
    output = Output(as_json=as_json)
    collection, _ = parse_ref(document)
    settings = Settings.load(state_path)
    async with reading(state_path) as store:
        before = await _read(store, document)
    # Whether the store can be written is better known before the work than after it.
    await (await connect(settings.path)).close()
    with (
        Draft(document, pretty(msgspec.json.encode(before.value))) as draft,
        draft.kept_on_failure(output, state_path),
    ):
        draft.edit()
        if not draft.changed:
            output.result(_stored(document, before.version, changed=False), f"{document} is as it was")
            return
        text = parse_untrusted(draft.read(), key=document, limit=settings.max_document)
        value = _identified(text, document)
        async with writing(state_path) as store:
            seq = await store.collection(collection).put(value, if_version=before.version)
    output.result(_stored(document, seq), f"stored {document} as seq {seq}")


@group.command()
@asynchronous
async def delete(
    document: Reference,
    yes: Yes = False,
    dry_run: DryRun = False,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Delete a document. `statepath restore` can bring it back as long as the log reaches."""
    output = Output(as_json=as_json)
    collection, id = parse_ref(document)
    async with reading(state_path) as store:
        version = (await _read(store, document)).version
    facts = {"collection": collection, "id": id, "version": version}
    if dry_run:
        output.result(
            facts | {"deleted": False, "dry_run": True, "seq": None, "undo": None},
            f"would delete {document}, version {version}",
        )
        return
    confirm(f"This deletes {document}, version {version}.", yes=yes)
    async with writing(state_path) as store:
        seq = await _delete(store, document, version)
    undo = command_line(state_path, "restore", "--at", str(seq - 1))
    output.result(
        facts | {"deleted": True, "dry_run": False, "seq": seq, "undo": undo},
        f"deleted {document}; to bring it back: {undo}",
    )


async def _delete(store: Store, document: str, version: int) -> int:
    """Delete the document as it was shown; the seq of that, which other writers' may follow already.

    Raises:
        ConflictError: it has changed since.
    """
    collection, id = parse_ref(document)
    held = store.collection(collection)
    async with store.transaction() as tx:
        await tx.get(held, id)  # what it is has to hold still when the transaction ends
        found = await held.get_document(id)
        current = 0 if found is None else found.version
        if current != version:
            raise ConflictError(
                f"{document} is at version {current} now, and {version} was to be deleted; look at it again",
                key=document,
                base=version,
                current=current,
            )
        tx.delete(held, id)
    return tx.seq or 0


async def _read(store: Store, document: str) -> Document[JsonObject]:
    collection, id = parse_ref(document)
    found = await store.collection(collection).get_document(id)
    if found is None:
        raise NotFoundError(f"{document} does not exist", key=document)
    return found


def _identified(value: JsonValue, document: str) -> JsonObject:
    """The document that was handed in, with the id under which it is to be stored."""
    id = parse_ref(document)[1]
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"{document}: a document is a JSON object, and this is none", key=document)
    if value.setdefault("id", id) != id:
        raise InvalidArgumentError(
            f"{document}: the id in the document is {value['id']!r}; write the same one in both places",
            key=document,
        )
    encode_mapping(value, key=document)  # refused now, it creates no store
    return value


def _read_file(file: str, limit: int) -> bytes:
    try:
        with interruptible(), nullcontext(sys.stdin.buffer) if file == "-" else open(file, "rb") as stream:
            text = stream.read(limit + 1)  # it may have no end
    except OSError as error:
        raise InvalidArgumentError(f"{file} cannot be read: {error.strerror}", key=file) from None
    if len(text) > limit:
        raise InvalidArgumentError(
            f"{file} has more than {limit:,} bytes, the most of a document: split it, or raise STATE_MAX_DOCUMENT",
            key=file,
        )
    if not text.strip():
        raise InvalidArgumentError(
            f"{'stdin' if file == '-' else file} is empty; give a JSON object", key=file
        )
    return text


def filter_of(conditions: list[str]) -> Filter | None:
    """What `--where` asks for; all of it must hold."""
    wanted: Filter | None = None
    for condition in conditions:
        field, equals, text = condition.partition("=")
        if not equals or not field:
            raise InvalidArgumentError(f"--where takes FIELD=VALUE, such as status=failed, not {condition!r}")
        one = F(field) == _operand(text)
        wanted = one if wanted is None else wanted & one
    return wanted


def _operand(text: str) -> JsonValue:
    """The JSON value that the text is, or else the text."""
    try:
        value: JsonValue = msgspec.json.decode(text)
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"--where takes text in UTF-8, not {text!r}") from None
    except msgspec.MsgspecError:
        return text
    return value


def _facts(document: str, found: Document[JsonObject]) -> dict[str, Any]:
    return {
        "collection": document.partition("/")[0],
        "id": found.id,
        "version": found.version,
        "modified": found.modified,
        "value": found.value,
    }


def _stored(document: str, seq: int, *, changed: bool = True) -> dict[str, Any]:
    collection, id = parse_ref(document)
    return {"collection": collection, "id": id, "seq": seq, "changed": changed}
