"""OCI image layouts for tests, put together blob by blob."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


class Layout:
    """A layout that grows in the directory `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs/sha256").mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, content: bytes, kind: str, **more: Any) -> dict[str, Any]:
        """Store a blob; what names it."""
        digest = hashlib.sha256(content).hexdigest()
        (self.root / "blobs/sha256" / digest).write_bytes(content)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)} | more

    def document(self, content: dict[str, Any], kind: str, **more: Any) -> dict[str, Any]:
        return self.blob(json.dumps(content).encode(), kind, **more)

    def image(self, *layers: tuple[bytes, str], architecture: str = "amd64", **more: Any) -> dict[str, Any]:
        """Store an image of layers (bytes, end of the media type); what names its manifest."""
        config = self.document({"os": "linux", "architecture": architecture, "rootfs": {}}, CONFIG)
        held = [self.blob(content, LAYER + suffix) for content, suffix in layers]
        return self.document({"schemaVersion": 2, "config": config, "layers": held}, MANIFEST, **more)

    def index(self, *manifests: dict[str, Any]) -> Path:
        """Write the index, which makes it complete."""
        content = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}
        (self.root / "index.json").write_text(json.dumps(content))
        return self.root


def platform(architecture: str, variant: str | None = None, system: str = "linux") -> dict[str, Any]:
    return {"platform": {"os": system, "architecture": architecture} | ({"variant": variant} if variant else {})}


def named(name: str) -> dict[str, Any]:
    return {"annotations": {"org.opencontainers.image.ref.name": name}}
