"""A service whose certificate an authority of one's own has issued."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys

import pytest
import trustme
from servers.raw import EMPTY, answer, listening
from servers.services import SERVICES

pytestmark = pytest.mark.slow

VARIABLES = {"s3": "AWS_CA_BUNDLE", "gcs": "SSL_CERT_FILE", "azure": "SSL_CERT_FILE"}

LOOK = """
import asyncio, sys
from statepath.discovery import connect

async def look():
    await (await connect(sys.argv[1], readonly=True)).close()

asyncio.run(look())
"""


async def looked(path, **env):
    """What a program says in the end that looks at the state path."""
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOOK, path, stderr=asyncio.subprocess.PIPE, env={**os.environ, **env}
    )
    _, said = await program.communicate()
    return said.decode()


async def test_it_is_trusted_where_the_page_says_that_it_is_named(name, tmp_path):
    authority, tls = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))

    async def serve(head, writer):
        await answer(writer, EMPTY[name])

    async with listening(serve, tls) as endpoint:
        path = SERVICES[name]("own", endpoint).path("x")
        assert "cannot be reached" in await looked(path)
        assert await looked(path, **{VARIABLES[name]: str(tmp_path / "authority.pem")}) == ""
