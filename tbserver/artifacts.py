"""Artifacts on their way in: taken in parts, put together, and refused unless keys that are trusted answer for them."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tbdiff.errors import Rejected
from tbdiff.image import open_image
from tbdiff.manifest import Manifest
from tbdiff.signature import KeyRing, PublicKey, load_public_key
from tbserver import audit
from tbserver.accounts import Caller
from tbserver.files import key_of
from tbserver.records import Artifact, Release, TrustedKey, Upload
from tbserver.refusals import NotThere, NotValid, Refusal
from tbserver.server import Server

RELEASE, DELIVERY = "release", "delivery"
# What a tenant may have on the way in at a time.
UPLOADS_MAX = 20
KEPT_SECONDS = 7 * 24 * 3600
UPLOADED = "uploaded"


@dataclass(frozen=True)
class Checked:
    """An image that was read to its end: what its signed head says, who signed, and its digests."""

    manifest: Manifest
    statement: bytes
    image: str
    signers: tuple[str, ...]
    digest: str
    md5: str
    sha1: str
    size: int


def read_key(server: Server, name: str, pem: str) -> PublicKey:
    """A public key in PEM form; Rejected if it is none, or one under which anybody could sign."""
    with tempfile.TemporaryDirectory(dir=server.settings.scratch) as place:
        path = Path(place, "key.pub")
        path.write_text(pem)
        try:
            found = load_public_key(path)
        except Rejected as error:
            raise NotValid(str(error).replace(str(path), "this"), error.remedy) from None
    return PublicKey(name, found.raw, found.key)


def key_ring(server: Server, session: Session, tenant_id: int) -> KeyRing:
    """The keys that a tenant trusts."""
    rows = session.scalars(select(TrustedKey).where(TrustedKey.tenant_id == tenant_id).order_by(TrustedKey.id)).all()
    keys = {row.id: read_key(server, row.name, row.pem) for row in rows}
    return KeyRing(
        tuple(keys[row.id] for row in rows if row.kind == RELEASE),
        tuple(keys[row.id] for row in rows if row.kind == DELIVERY),
    )


def begin(session: Session, caller: Caller, digest: str, size: int) -> Upload:
    """Begin to take an artifact, or go on with the one of that digest that this person began before."""
    if session.scalar(select(Artifact.id).where(Artifact.tenant_id == caller.tenant_id, Artifact.digest == digest)):
        raise Refusal("this artifact is here already", "It need not be sent again: look at the releases.")
    mine = select(Upload).where(Upload.tenant_id == caller.tenant_id)
    begun = session.scalar(
        mine.where(Upload.account_id == caller.account_id, Upload.digest == digest, Upload.size == size)
    )
    if begun is not None:
        return begun
    if len(session.scalars(mine.with_only_columns(Upload.id).limit(UPLOADS_MAX)).all()) == UPLOADS_MAX:
        raise Refusal(f"{UPLOADS_MAX} uploads are on their way already", "Finish or drop one of them.")
    new = Upload(
        id=secrets.token_hex(16),
        tenant_id=caller.tenant_id,
        account_id=caller.account_id,
        digest=digest,
        size=size,
        received=0,
        parts=0,
        created=int(time.time()),
    )
    session.add(new)
    session.flush()
    return new


def get_upload(session: Session, caller: Caller, upload_id: str) -> Upload:
    """An upload of the caller's own; NotThere."""
    query = select(Upload).where(
        Upload.id == upload_id, Upload.tenant_id == caller.tenant_id, Upload.account_id == caller.account_id
    )
    found = session.scalar(query.with_for_update())
    if found is None:
        raise NotThere("there is no such upload", "Begin it again.")
    return found


def add_part(server: Server, caller: Caller, upload_id: str, offset: int, data: bytes) -> Upload:
    """Take the bytes that follow; Refusal if others do."""
    with server.database.reading() as session:
        upload = get_upload(session, caller, upload_id)
    _check_offset(upload, offset, len(data))
    # Before it counts. Of two that send the same part at once one counts; the digest of the whole is checked at last.
    server.store.put(_part(upload, upload.parts), data)
    with server.database.writing() as session:
        upload = get_upload(session, caller, upload_id)
        _check_offset(upload, offset, len(data))
        upload.received += len(data)
        upload.parts += 1
        return upload


def _check_offset(upload: Upload, offset: int, length: int) -> None:
    if offset != upload.received:
        raise Refusal(
            f"{upload.received} bytes are here, so the next part begins there, and not at {offset}",
            "Send the part that begins there.",
        )
    if not 0 < length <= upload.size - upload.received:
        raise NotValid(
            f"{upload.size - upload.received} bytes are missing, and {length} came",
            "Send one byte at least, and no more than is missing.",
        )


def _part(upload: Upload, number: int) -> str:
    return f"uploads/{upload.tenant_id}/{upload.id}/{number:08}"


def drop(server: Server, caller: Caller, upload_id: str) -> None:
    """Forget an upload, and what came of it."""
    with server.database.writing() as session:
        upload = get_upload(session, caller, upload_id)
        session.delete(upload)
    server.store.remove(f"uploads/{upload.tenant_id}/{upload.id}")


def finish(server: Server, caller: Caller, upload_id: str) -> Artifact:
    """Make an artifact of a complete upload; Rejected, and it is dropped, if no trusted key answers for it."""
    with server.database.reading() as session:
        upload = get_upload(session, caller, upload_id)
        keys = key_ring(server, session, caller.tenant_id)
    if upload.received != upload.size:
        raise Refusal(f"{upload.size - upload.received} of {upload.size} bytes are still to come", "Send these first.")
    try:
        with _whole(server, upload) as path:
            checked = check(path, keys, announced=upload.digest)
            server.store.put_file(key_of(caller.tenant_id, upload.digest), path)
    except Rejected:
        drop(server, caller, upload_id)
        raise
    try:
        with server.database.writing() as session:
            artifact = record(session, caller.tenant_id, checked, UPLOADED)
            audit.note(
                session,
                caller.tenant_id,
                caller.name,
                "artifact.upload",
                upload.digest,
                release=checked.manifest.target.release or (checked.manifest.target.tree or "")[:12],
                signers=list(checked.signers),
            )
    except IntegrityError:
        raise Refusal("somebody else finished an upload of the same at this moment", "Look at the list.") from None
    drop(server, caller, upload_id)
    return artifact


@contextmanager
def _whole(server: Server, upload: Upload) -> Iterator[Path]:
    """All parts as one file."""
    with tempfile.NamedTemporaryFile(dir=server.settings.scratch) as file:
        for number in range(upload.parts):
            key = _part(upload, number)
            for piece in server.store.read(key, 0, server.store.size(key) or 0):
                file.write(piece)
        file.flush()
        yield Path(file.name)


def check(path: Path, keys: KeyRing, announced: str = "") -> Checked:
    """Read an image to its end; Refusal unless keys of the ring answer for it, and it is what was announced."""
    sums = [hashlib.sha256(), hashlib.md5(usedforsecurity=False), hashlib.sha1(usedforsecurity=False)]
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            for one in sums:
                one.update(piece)
    digest, md5, sha1 = (one.hexdigest() for one in sums)
    if announced not in ("", digest):
        raise Refusal(
            "what came is not what was announced: its digest is another one; it was dropped", "Send it again."
        )
    try:
        with open_image(str(path), keys) as opened:
            manifest = opened.manifest
            if manifest.way.container != "tbdiff" or manifest.target.tree is None:
                raise Refusal(
                    "this is no image of tbdiff's own form", "Make it one with `tbdiff convert`, and sign that."
                )
            opened.check()
            stated, size = opened.stated[0], path.stat().st_size
            return Checked(manifest, stated, opened.digest, opened.signers, digest, md5, sha1, size)
    except Rejected as error:
        raise Refusal(str(error).replace(str(path), "the file"), error.remedy) from None


def record(session: Session, tenant_id: int, checked: Checked, made: str) -> Artifact:
    """Write down an artifact that is in the store, and its release if it is the first one of that."""
    target, way, now = checked.manifest.target, checked.manifest.way, int(time.time())
    release = session.scalar(select(Release).where(Release.tenant_id == tenant_id, Release.tree == target.tree))
    if release is None:
        release = Release(
            tenant_id=tenant_id,
            tree=target.tree,
            statement=checked.statement,
            name=target.name,
            version=target.release or "",
            epoch=target.epoch,
            device_types=list(target.device_types),
            size=target.size,
            created=now,
        )
        session.add(release)
        session.flush()
    artifact = Artifact(
        tenant_id=tenant_id,
        release_id=release.id,
        name=f"{checked.digest[:16]}.tbdiff",
        digest=checked.digest,
        md5=checked.md5,
        sha1=checked.sha1,
        size=checked.size,
        image=checked.image,
        base=way.base or "",
        free=way.free,
        encoders=list(way.encoders),
        signers=list(checked.signers),
        made=made,
        created=now,
    )
    session.add(artifact)
    session.flush()
    return artifact
