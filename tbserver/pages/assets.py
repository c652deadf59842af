"""The files that pages are drawn with: named by what is in them, so that a browser keeps them."""

from __future__ import annotations

import functools
import hashlib
from importlib import resources

from fastapi import APIRouter, Response

from tbserver.refusals import NotThere

router = APIRouter()
_TYPES = {
    "style.css": "text/css",
    "page.js": "text/javascript",
    "upload.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


@router.get("/static/{name}")
def send(name: str) -> Response:
    """One of them, as it is for ever under this address."""
    if name not in _TYPES:
        raise NotThere("there is no such file", "Load the page again.")
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(_contents(name), media_type=_TYPES[name], headers=headers)


def address(name: str) -> str:
    """Where a browser finds it; another address when it is another file."""
    return f"/static/{name}?{hashlib.sha256(_contents(name)).hexdigest()[:12]}"


@functools.cache
def _contents(name: str) -> bytes:
    return resources.files("tbserver").joinpath("static", name).read_bytes()
