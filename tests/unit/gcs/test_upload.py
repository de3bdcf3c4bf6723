"""The body of an upload."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from email.parser import BytesParser

import pytest
from statepath.objectstore import BLOCK
from statepath_gcs.upload import Upload

LARGE = bytes(range(256)) * 10_000


async def sent(upload: Upload) -> bytes:
    return b"".join([bytes(block) async for block in upload.body()])


@pytest.mark.parametrize(
    "content", [b"", b"\r\n--==0==--\r\n", LARGE, io.BytesIO(b"small"), io.BytesIO(LARGE)], ids=range(5)
)
async def test_the_parts_are_what_is_said_of_the_object_and_its_content(content):
    data = content if isinstance(content, bytes) else content.getvalue()
    upload = await Upload.of("p/ü\n", content)
    body = await sent(upload)
    assert upload.headers["Content-Length"] == str(len(body))
    head = f"Content-Type: {upload.headers['Content-Type']}\r\n\r\n".encode()
    boundary = BytesParser().parsebytes(head).get_boundary()
    start, said, stored, end = body.split(f"--{boundary}".encode())
    assert (start, end) == (b"", b"--\r\n")
    assert json.loads(said.partition(b"\r\n\r\n")[2]) == {
        "name": "p/ü\n",
        "md5Hash": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
        "cacheControl": "no-store",  # or Google itself may, where anybody may read the bucket
    }
    assert stored.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") == data


async def test_no_two_uploads_have_the_same_boundary():
    one, other = [(await Upload.of("a", b"a")).headers["Content-Type"] for _ in range(2)]
    assert one != other


class Counted(io.BytesIO):
    """A file that knows how much of it was read at once."""

    most = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.most = max(self.most, len(data))
        return data


async def test_a_file_is_never_in_memory_as_a_whole():
    content = Counted(LARGE)
    upload = await Upload.of("a", content)
    blocks = [len(block) async for block in upload.body()]
    assert content.most == 1024 * 1024
    assert max(blocks) == BLOCK
    assert sum(blocks) == int(upload.headers["Content-Length"])
