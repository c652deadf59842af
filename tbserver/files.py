"""Artifacts as they are sent: whole or in parts, so that a download goes on where it broke off."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from email.utils import formatdate

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from tbserver import ranges
from tbserver.records import Artifact
from tbserver.store import Store

TYPE = "application/octet-stream"


def key_of(tenant_id: int, digest: str) -> str:
    """Where the object store has an artifact."""
    return f"artifacts/{tenant_id}/{digest}"


def send(request: Request, store: Store, artifact: Artifact) -> Response:
    """An artifact, or what was asked for of it."""
    size, tag, modified = artifact.size, f'"{artifact.digest}"', formatdate(artifact.created, usegmt=True)
    headers = {
        "ETag": tag,
        "Last-Modified": modified,
        "Accept-Ranges": "bytes",
        # It is the device's own, and never another under this address.
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    if tag in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    said = request.headers
    wanted = ranges.wanted(said.get("range"), said.get("if-range"), (tag, modified), size)
    key = key_of(artifact.tenant_id, artifact.digest)
    if wanted is None or request.method == "HEAD":
        return _stream(request, store.read(key, 0, size), 200, headers | {"Content-Length": str(size)})
    if not wanted:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
    if len(wanted) == 1:
        part = wanted[0]
        headers |= {
            "Content-Range": f"bytes {part.start}-{part.stop - 1}/{size}",
            "Content-Length": str(len(part)),
        }
        return _stream(request, store.read(key, part.start, part.stop), 206, headers)
    return _send_parts(request, store, key, wanted, size, headers)


def _send_parts(
    request: Request, store: Store, key: str, wanted: list[range], size: int, headers: dict[str, str]
) -> Response:
    boundary = secrets.token_hex(12)
    heads = [
        f"--{boundary}\r\nContent-Type: {TYPE}\r\n"
        f"Content-Range: bytes {part.start}-{part.stop - 1}/{size}\r\n\r\n".encode()
        for part in wanted
    ]
    end = f"--{boundary}--\r\n".encode()

    def pieces() -> Iterator[bytes]:
        for head, part in zip(heads, wanted, strict=True):
            yield head
            yield from store.read(key, part.start, part.stop)
            yield b"\r\n"
        yield end

    length = sum(map(len, heads)) + sum(map(len, wanted)) + 2 * len(wanted) + len(end)
    headers |= {"Content-Length": str(length), "Content-Type": f"multipart/byteranges; boundary={boundary}"}
    return _stream(request, pieces(), 206, headers)


def _stream(request: Request, pieces: Iterator[bytes], status: int, headers: dict[str, str]) -> Response:
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers | {"Content-Type": TYPE})
    return StreamingResponse(pieces, status, headers, media_type=headers.get("Content-Type", TYPE))
