"""A directory in the OCI image layout: which image in it is meant, and its layers laid one over the other as a tree."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tbdiff.entry import Listing, printable
from tbdiff.errors import NothingToDo, Rejected, Stop
from tbdiff.image import open_image
from tbdiff.overlay import PLAIN_ROOT
from tbdiff.scratch import scratch_directory
from tbdiff.tree import Progress, quiet

MARK, INDEX = "oci-layout", "index.json"
DOCUMENT_MAX = 4 << 20
# An index may name further ones.
NESTED_MAX = 4
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
LAYER = re.compile(
    r"application/vnd\.(oci\.image\.layer(\.nondistributable)?\.v1\.tar(\+gzip|\+zstd)?"
    r"|docker\.image\.rootfs(\.foreign)?\.diff\.tar(\.gzip|\.zstd)?)"
)
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
STEP = 1 << 20

Descriptor = dict[str, Any]


def is_layout(path: Path) -> bool:
    """Whether a directory is an image layout, rather than a tree."""
    return (path / MARK).is_file() and (path / INDEX).is_file() and (path / "blobs").is_dir()


@contextmanager
def as_tree(path: Path, scratch: Path, platform: str | None = None, progress: Progress = quiet) -> Iterator[Path]:
    """The tree at `path`: itself or, where it is an image layout, what its layers make, for a while, in `scratch`."""
    if not is_layout(path):
        yield path
        return
    layers = layers_of(path, platform)
    with scratch_directory(scratch) as tree:
        # What a root has that no layer says anything of.
        os.chmod(tree, PLAIN_ROOT.mode)
        if os.geteuid() == 0:
            os.chown(tree, PLAIN_ROOT.uid, PLAIN_ROOT.gid)
        os.utime(tree, ns=(PLAIN_ROOT.mtime, PLAIN_ROOT.mtime))
        listing = Listing([PLAIN_ROOT])
        for n, layer in enumerate(layers, 1):
            try:
                with open_image(str(layer), delta=True) as image:
                    listing = image.apply(tree, listing, progress)
            except NothingToDo:
                pass  # a layer that brings nothing
            except Stop as stop:
                raise type(stop)(f"layer {n} of {len(layers)} of {path}: {stop}", stop.remedy) from stop
        yield tree


def layers_of(layout: Path, platform: str | None) -> list[Path]:
    """The layers of the image in a layout, the lowest first; all that leads to them was checked by its digest."""
    found = _Layout(layout)
    manifest = found.manifest(platform)
    layers = manifest.get("layers")
    if not isinstance(layers, list) or not layers:
        raise Rejected(f"the image in {layout} has no layers")
    for layer in layers:
        kind = layer.get("mediaType") if isinstance(layer, dict) else None
        if not isinstance(kind, str) or not LAYER.fullmatch(kind):
            raise Rejected(
                f"the image in {layout} has a layer of the kind {printable(str(kind).encode()[:80])!r}, "
                "which tbdiff does not read"
            )
    return [found.blob(layer) for layer in layers]


class _Layout:
    """The blobs of a layout, each held against its digest when it is first needed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        version = self._document(root / MARK).get("imageLayoutVersion")
        if not isinstance(version, str) or not version.startswith("1."):
            raise Rejected(f"{root} is an OCI image layout of a version that tbdiff does not read")

    def manifest(self, platform: str | None) -> dict[str, Any]:
        """The one manifest that is meant."""
        found = [
            (descriptor, self._platform(descriptor))
            for descriptor in self._manifests(self._document(self._root / INDEX), 0)
        ]
        # What builders attach to an image has no platform that anything runs on.
        images = [(one, name) for one, name in found if not name.startswith("unknown/")]
        chosen = [(one, name) for one, name in images if platform is None or _fits(name, platform)]
        if len(chosen) == 1:
            return self._document(self.blob(chosen[0][0]))
        held = ", ".join(sorted(f"{name}{_label(one)}" for one, name in images)) or "none"
        if not chosen:
            raise Rejected(f"there is no image for {platform or 'any platform'} in {self._root}; there are: {held}")
        raise Rejected(
            f"there are several images in {self._root}: {held}",
            "Choose one with --platform OS/ARCHITECTURE."
            if platform is None
            else "Copy the one that you mean to a layout of its own.",
        )

    def _manifests(self, index: dict[str, Any], depth: int) -> Iterator[Descriptor]:
        """All manifests that an index names, itself or by further ones."""
        entries = index.get("manifests")
        if not isinstance(entries, list) or depth > NESTED_MAX:
            raise Rejected(f"{self._root} is no valid OCI image layout: its index names no manifests")
        for entry in entries:
            kind = entry.get("mediaType") if isinstance(entry, dict) else None
            if kind in INDEXES:
                yield from self._manifests(self._document(self.blob(entry)), depth + 1)
            elif kind in MANIFESTS:
                yield entry

    def _platform(self, manifest: Descriptor) -> str:
        """What a manifest is for, as OS/ARCHITECTURE[/VARIANT]; its configuration says so if nothing else does."""
        told = manifest.get("platform")
        if not isinstance(told, dict):
            config = self._document(self.blob(manifest)).get("config")
            told = self._document(self.blob(config)) if isinstance(config, dict) else {}
        parts = (told.get("os"), told.get("architecture"), told.get("variant"))
        return "/".join(printable(part.encode()[:40]) for part in parts if isinstance(part, str)) or "unnamed"

    def blob(self, descriptor: Descriptor) -> Path:
        """The file that a descriptor means; Rejected if it is not exactly that."""
        digest, size = descriptor.get("digest"), descriptor.get("size")
        named = DIGEST.fullmatch(digest) if isinstance(digest, str) else None
        if named is None:
            shown = printable(str(digest).encode()[:80])
            raise Rejected(f"{self._root} names what it holds by {shown!r}, and tbdiff knows sha256 only")
        path = self._root / "blobs" / "sha256" / named[1]
        try:
            with path.open("rb") as file:
                found = hashlib.sha256()
                while part := file.read(STEP):
                    found.update(part)
                whole = found.hexdigest() == named[1] and file.tell() == size
        except OSError as error:
            raise Rejected(
                f"{self._root} lacks a part, {path.name[:16]}…: {error.strerror}", "Fetch it again."
            ) from None
        if not whole:
            raise Rejected(f"{self._root} is damaged: {path.name[:16]}… is not what its digest says", "Fetch it again.")
        return path

    def _document(self, path: Path) -> dict[str, Any]:
        try:
            with path.open("rb") as file:
                document = json.loads(file.read(DOCUMENT_MAX + 1)[:DOCUMENT_MAX])
        except (OSError, ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise Rejected(
                f"{self._root} is no valid OCI image layout: {path.name[:16]} is not the JSON that it should be"
            )
        return document


def _fits(name: str, platform: str) -> bool:
    """Whether a platform is the one that was asked for; without a variant any is meant."""
    return name == platform or name.startswith(platform + "/")


def _label(descriptor: Descriptor) -> str:
    notes = descriptor.get("annotations")
    name = notes.get("org.opencontainers.image.ref.name") if isinstance(notes, dict) else None
    return f" ({printable(name.encode()[:80])})" if isinstance(name, str) else ""
