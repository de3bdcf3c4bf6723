"""moto, as tests start it: one request after the other, once it has been received, and with the condition of a copy.

By itself it answers them at once without a lock: it fails to list what is deleted meanwhile, closes what is overwritten
under who reads it, and lets others change an object between the check of a condition and the change. And a copy with
`x-amz-copy-source-if-match` is one of whatever the source holds. It also looks through its own folder to find which of
its services a request is for, and tells each one, which takes a third of its time.

    python moto_stand_in.py ARGUMENTS_OF_MOTO_SERVER
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any
from urllib.parse import unquote

from moto.moto_server.werkzeug_app import DomainDispatcherApplication
from moto.s3.exceptions import PreconditionFailed
from moto.s3.responses import S3Response
from moto.server import main


def answer_in_turn() -> None:
    turn = Lock()

    def in_turn(answer: Callable[..., Any]) -> Callable[..., Any]:
        def answered(*request: Any) -> Any:  # whose body has been read
            with turn:
                return answer(*request)

        return answered

    S3Response._bucket_response = in_turn(S3Response._bucket_response)
    S3Response._key_response = in_turn(S3Response._key_response)


def hold_copies() -> None:
    copy = S3Response.copy_object

    def held(response: S3Response) -> Any:
        wanted = response.headers.get("x-amz-copy-source-if-match")
        bucket, _, name = unquote(response.headers["x-amz-copy-source"]).lstrip("/").partition("/")
        source = response.backend.get_object(bucket, name)
        if source is not None and wanted not in (None, source.etag):
            raise PreconditionFailed(failed_condition="x-amz-copy-source-If-Match")
        return copy(response)

    S3Response.copy_object = held


def answer_quickly() -> None:
    DomainDispatcherApplication.get_backend_for_host = cache(DomainDispatcherApplication.get_backend_for_host)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)


if __name__ == "__main__":
    answer_quickly()
    answer_in_turn()
    hold_copies()
    main()
