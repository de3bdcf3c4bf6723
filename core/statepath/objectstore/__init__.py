"""For the author of a backend on an object store: what S3, Google Cloud Storage and Azure Blob have in common.

A `Driver` says how one service puts, gets, removes and lists a named object. `ObjectStoreBackend` makes a
`statepath.backend.Backend` of it: names below a prefix, spans, pages, streams, read-only and closed handles.
`open_backend` does so unless the service ignores conditions. `Place` is where a store lies, as its URL says, and
`Parameters` are what that and the environment say besides. `refusal` turns the status of an answer into the error that
a caller can act on, `Patience` gives up a request that does not get on, and `proxy_for` says what stands between.
"""

from statepath.objectstore.answers import (
    Answer,
    Asked,
    Cause,
    Unreadable,
    no_container,
    refusal,
    unanswered,
    unmet,
    unsent,
)
from statepath.objectstore.backend import ObjectStoreBackend
from statepath.objectstore.content import BLOCK, blocks
from statepath.objectstore.digest import Measured, measure
from statepath.objectstore.driver import Content, Driver, Listed, Page, Served
from statepath.objectstore.opening import open_backend
from statepath.objectstore.parameters import Parameters, endpoint, flag, seconds, text
from statepath.objectstore.patience import Patience
from statepath.objectstore.place import Place
from statepath.proxies import proxy_for

__all__ = [
    "BLOCK",
    "Answer",
    "Asked",
    "Cause",
    "Content",
    "Driver",
    "Listed",
    "Measured",
    "ObjectStoreBackend",
    "Page",
    "Parameters",
    "Patience",
    "Place",
    "Served",
    "Unreadable",
    "blocks",
    "endpoint",
    "flag",
    "measure",
    "no_container",
    "open_backend",
    "proxy_for",
    "refusal",
    "seconds",
    "text",
    "unanswered",
    "unmet",
    "unsent",
]
