"""A signature put on an image that exists: for a build host that does not sign itself."""

from __future__ import annotations

import shutil
from pathlib import Path

from tbdiff.errors import Failed
from tbdiff.head import MAGIC, Head, merged_signatures, read_head
from tbdiff.output import appearing
from tbdiff.signature import PrivateKey, load_private_key, sign


def signed(head: Head, key: PrivateKey, *, only_way: bool = False) -> Head:
    """The head with this key's signatures over both statements, or over the way to a target that is signed already."""
    made = [sign(key, head.way, of_target=False)]
    if not only_way:
        made.insert(0, sign(key, head.target, of_target=True))
    return Head(head.target, head.way, merged_signatures(head.signatures, made))


def sign_image(image: Path, key: Path) -> Path | None:
    """Add a signature to a `.tbdiff` image; None if it is no such image. It is replaced as a whole or not at all."""
    private = load_private_key(key)
    try:
        with image.open("rb") as old:
            if old.read(len(MAGIC)) != MAGIC:
                return None
            head = read_head(old)
            head.manifest()
            with appearing(image) as new:
                new.write(signed(head, private).to_bytes())
                shutil.copyfileobj(old, new)
    except OSError as error:
        raise Failed(f"{image} could not be signed: {error.strerror}; it is as it was") from None
    return image
