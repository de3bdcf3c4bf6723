"""From a driver that has connected to a backend that may be used."""

from __future__ import annotations

from statepath.objectstore.backend import ObjectStoreBackend
from statepath.objectstore.driver import Driver
from statepath.objectstore.place import Place
from statepath.objectstore.probe import probe


async def open_backend(
    driver: Driver, place: Place, *, max_object_bytes: int, readonly: bool, bare: Driver | None = None
) -> ObjectStoreBackend:
    """The backend over the driver, once the service has passed the probe (a reader needs none). If it does not, the
    driver is closed.

    Parameters:
        bare: of a driver that compares versions before it asks, one that leaves that to the service.

    Raises:
        UnsupportedError, StateError: as `probe`.
    """
    try:
        copies = readonly or await probe(driver, place, bare or driver)
    except BaseException:
        await driver.close()
        raise
    return ObjectStoreBackend(
        driver, place, max_object_bytes=max_object_bytes, readonly=readonly, copies=copies
    )
