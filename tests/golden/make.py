"""Make the golden images anew: `python -m tests.golden.make`. Images that were released once must stay as they are."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tbdiff import encoders
from tbdiff.create import Label, create_image
from tbdiff.encoders import Factory
from tbdiff.head import MAGIC, Head, read_head
from tbdiff.signature import sign
from tests.golden.scenes import SCENES, Scene
from tests.trees import build

PLACE = Path(__file__).parent / "v1"
# No secrets: whoever wants to can sign test images.
KEYS = {
    "release": Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
    "delivery": Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64))),
}


def deflate_only(name: str) -> dict[str, Factory]:
    """No compressor but the one that every Python brings."""
    return encoders.available(name) if name.startswith("deflate:") else {}


def make(name: str, scene: Scene, out: Path) -> dict[str, object]:
    """Write one image; return what it leads to."""
    with tempfile.TemporaryDirectory() as place:
        base, target = Path(place) / "base", Path(place) / "target"
        if scene.base is not None:
            build(scene.base, base)
        build(scene.target, target)
        label = Label(name=f"golden {name}", release="1.0", device_types=("test",), epoch=1)
        manifest = create_image(
            base if scene.base is not None else None,
            target,
            out,
            label=label,
            effort=scene.effort,
            available=deflate_only,
        )
    if scene.target_key and scene.way_key:
        with out.open("rb") as image:
            image.read(len(MAGIC))
            head = read_head(image)
            rest = image.read()
        signatures = (
            sign(KEYS[scene.target_key], head.target, of_target=True),
            sign(KEYS[scene.way_key], head.way, of_target=False),
        )
        out.write_bytes(Head(head.target, head.way, signatures).to_bytes() + rest)
    return {
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "base": manifest.way.base,
        "target": manifest.target.tree,
        "entries": manifest.target.entries,
        "size": manifest.target.size,
        "largest": manifest.target.largest,
        "encoders": list(manifest.way.encoders),
    }


def main() -> None:
    """Make all images whose names are given, or all that are not there yet."""
    PLACE.mkdir(exist_ok=True)
    expected = PLACE / "expected.json"
    known = json.loads(expected.read_text()) if expected.exists() else {}
    for name, scene in SCENES.items():
        if name in sys.argv[1:] or name not in known:
            known[name] = make(name, scene, PLACE / f"{name}.tbdiff")
    expected.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
