"""For the author of a backend on an object store: what S3, Google Cloud Storage and Azure Blob have in common.

A `Driver` says how one service puts, gets, removes and lists a named object. `ObjectStoreBackend` makes a
`statepath.backend.Backend` of it: names below a prefix, spans, pages, streams, read-only and closed handles. `probe`
refuses a store which ignores conditions. `Place` is where a store lies, as its URL says; `refusal` turns the
status of an answer into the error that a caller can act on.
"""

from statepath.objectstore.answers import Answer, Asked, Cause, no_container, refusal, unanswered, unmet
from statepath.objectstore.backend import ObjectStoreBackend
from statepath.objectstore.digest import content_md5
from statepath.objectstore.driver import Content, Driver, Listed, Page, Served
from statepath.objectstore.place import Place, flag, seconds
from statepath.objectstore.probe import probe

__all__ = [
    "Answer",
    "Asked",
    "Cause",
    "Content",
    "Driver",
    "Listed",
    "ObjectStoreBackend",
    "Page",
    "Place",
    "Served",
    "content_md5",
    "flag",
    "no_container",
    "probe",
    "refusal",
    "seconds",
    "unanswered",
    "unmet",
]
