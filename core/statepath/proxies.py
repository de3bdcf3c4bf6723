"""Which proxy stands before an address, as the environment says.

HTTP clients that read the environment themselves take a password from `~/.netrc`, too, and so send one that is for
another purpose, or trip over it beside the credentials that a request has.
"""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def proxy_for(url: str) -> str | None:
    """The address of the proxy for requests to the URL, by `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`; `None`: they
    go straight there."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    # `NO_PROXY` may name the host with its port, and an IPv6 address without the brackets.
    if proxy is None or any(map(proxy_bypass, (parts.netloc.rpartition("@")[2], parts.hostname or ""))):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
