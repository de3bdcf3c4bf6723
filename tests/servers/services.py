"""The object stores that a store is tried on: how a state path of each is written, and how its requests look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote, urlencode

from servers import azure, gcs, s3


@dataclass(frozen=True)
class Service:
    """A server that runs.

    Attributes:
        root: a state path up to the container.
        endpoint: where the server listens; another one may stand in front of it.
        parameters: what the state path says beside the endpoint.
    """

    name: str
    root: str
    endpoint: str
    parameters: tuple[tuple[str, str], ...] = ()

    def path(self, prefix: str, **parameters: str) -> str:
        """The state path of a store of that prefix."""
        query = {"endpoint_url": self.endpoint, **dict(self.parameters), **parameters}
        return f"{self.root}/{quote(prefix)}?{urlencode(query)}"

    def at(self, endpoint: str) -> Service:
        return replace(self, endpoint=endpoint)


def s3_service(name: str, endpoint: str) -> Service:
    return Service(name, f"s3://{s3.BUCKET}", endpoint, (("region", s3.REGION), ("path_style", "true")))


def gcs_service(name: str, endpoint: str) -> Service:
    return Service(name, f"gs://{gcs.BUCKET}", endpoint, (("anonymous", "true"),))


def azure_service(name: str, endpoint: str) -> Service:
    return Service(name, f"az://{azure.CONTAINER}", endpoint)


SERVICES = {"s3": s3_service, "gcs": gcs_service, "azure": azure_service}


def path_at(name: str, endpoint: str, prefix: str) -> str:
    """The state path of a store on the service of that name, which listens there."""
    make = {"gcs": gcs_service, "azurite": azure_service}.get(name, s3_service)
    return make(name, endpoint).path(prefix)


def writes(key: str) -> Callable[[str, str, bytes], bool]:
    """Whether a request, by its method, target and body, writes an object whose key begins so."""

    def of(method: str, target: str, body: bytes) -> bool:
        if method not in ("PUT", "POST"):
            return False
        # A name stands in the path, or (Google) in a parameter or the body's first part.
        return f"/{key}" in unquote(target) or f"/{key}".encode() in body[:2000]

    return of
