"""A folder of images as any web server can serve it: the images under their digests, and the signed index."""

from __future__ import annotations

import fcntl
import filecmp
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tbdiff import rotation
from tbdiff import trust as trust_statements
from tbdiff.errors import Failed, NothingToDo, Rejected
from tbdiff.image import open_image
from tbdiff.index import INDEX_MAX, MOMENT, NAME, Index, ListedImage, Release, read_index, write_index
from tbdiff.output import replacing
from tbdiff.rotation import Standing
from tbdiff.signature import PrivateKey, load_private_key, public_half
from tbdiff.source import read_plain
from tbdiff.tree import Progress, quiet
from tbdiff.trust import write_chain

LOCK = ".lock"
# With fewer digits a tree is not named.
DIGEST_LEAST = 12


@dataclass(frozen=True)
class Offered:
    """An image to be published, and what the index is going to say of it."""

    source: Path
    release: Release
    listed: ListedImage


def publish(
    images: Sequence[Path],
    folder: Path,
    channel: str,
    key: Path,
    days: int,
    progress: Progress = quiet,
    trust: Path | None = None,
) -> Index:
    """Bring images into a folder and their releases into a channel; return the new index, which is valid for `days`.

    The images come before the index that names them: who reads the folder meanwhile finds the old state or the new.
    Without images it only renews the index. `trust` is a chain of trust statements for the devices that read there.
    """
    private = load_private_key(key)
    if not images and not folder.exists():
        raise Rejected(f"there is no folder {folder}, so there is nothing to renew", "Name an image to publish.")
    chain = _trusted(trust, folder)
    if chain is not None:
        _check_trusted(private, chain)
    offered = [_offered(path, chain, progress) for path in images]
    with _locked(folder):
        before = _present(folder, private, key.name, chain)
        if before is None and not offered:
            raise Rejected(f"{folder} holds no index yet, so there is nothing to renew", "Name an image to publish.")
        after = extended(before, [one.release for one in offered], [one.listed for one in offered], channel, days)
        signed = write_index(after, private)
        _check_readable(signed, private, folder)
        for one in offered:
            _bring(one, folder)
        if chain is not None:
            # Before the index, which may be signed by a key that devices learn of here.
            _put(folder / trust_statements.NAME, write_chain(chain.chain))
        _put(folder / NAME, signed)
    return after


def withdraw(release: str, folder: Path, channel: str | None, key: Path, days: int) -> Index:
    """Take a release (by its version, or the beginning of its tree digest) out of a channel, or of all; the new index.

    Images that lead to releases of no channel leave the folder; those that lead away from it stay.
    """
    private = load_private_key(key)
    if not folder.exists():
        raise Rejected(f"there is no folder {folder}; nothing was withdrawn")
    with _locked(folder):
        before = _present(folder, private, key.name, _trusted(None, folder))
        if before is None:
            raise Rejected(f"{folder} holds no index; nothing was withdrawn")
        after = reduced(before, release, channel, days)
        _put(folder / NAME, write_index(after, private))
        # Only now: who has read the old index may be fetching them.
        for image in set(before.images) - set(after.images):
            (folder / image.file).unlink(missing_ok=True)
    return after


def extended(
    index: Index | None, releases: Sequence[Release], images: Sequence[ListedImage], channel: str, days: int
) -> Index:
    """The next index: with these releases, as the newest of the channel where they were not in it, and these images.

    Of several new ones the last is the newest; Rejected where an image says otherwise.
    """
    known = {release.tree: release for release in index.releases} if index else {}
    listed = {image.digest: image for image in index.images} if index else {}
    channels = dict(index.channels) if index else {}
    for release in releases:
        known[release.tree] = release
        held = channels.get(channel, ())
        channels[channel] = held if release.tree in held else (*held, release.tree)
    listed.update((image.digest, image) for image in images)
    before = index.channels.get(channel, ()) if index else ()
    _check_order([known[tree] for tree in channels.get(channel, ()) if tree not in before], listed.values())
    return _next(index, days, tuple(known.values()), channels, tuple(listed.values()))


def _check_order(new: Sequence[Release], images: Iterable[ListedImage]) -> None:
    """Refuse an order of new releases that a delta contradicts: it leads to a newer one."""
    ways = {(image.base, image.tree) for image in images}
    for number, newer in enumerate(new):
        for older in new[:number]:
            if (newer.tree, older.tree) in ways and (older.tree, newer.tree) not in ways:
                raise Rejected(
                    f"{newer.called} would be newer than {older.called}, though an image leads from it to "
                    f"{older.called}; nothing was published",
                    "Name the images of the newest release last.",
                )


def reduced(index: Index, release: str, channel: str | None, days: int) -> Index:
    """The next index: without a release in the channel (None: in any), and without what then leads to no channel's."""
    if channel is not None and channel not in index.channels:
        raise Rejected(f"there is no channel {channel!r}, only {', '.join(index.channels)}; nothing was withdrawn")
    gone = {
        one.tree
        for one in index.releases
        if release and (one.release == release or (len(release) >= DIGEST_LEAST and one.tree.startswith(release)))
    }
    channels = {
        name: tuple(tree for tree in trees if tree not in gone or channel not in (None, name))
        for name, trees in index.channels.items()
    }
    if channels == index.channels:
        where = f"in {channel}" if channel else "in any channel"
        raise NothingToDo(f"there is no release {release} {where}")
    left = {tree for trees in channels.values() for tree in trees}
    releases = tuple(one for one in index.releases if one.tree in left)
    return _next(index, days, releases, channels, tuple(image for image in index.images if image.tree in left))


def _next(
    index: Index | None,
    days: int,
    releases: tuple[Release, ...],
    channels: dict[str, tuple[str, ...]],
    images: tuple[ListedImage, ...],
) -> Index:
    now = datetime.now(UTC)
    return Index(
        version=index.version + 1 if index else 1,
        issued=now.strftime(MOMENT),
        expires=(now + timedelta(days=days)).strftime(MOMENT),
        releases=releases,
        channels=channels,
        images=images,
    )


def _trusted(given: Path | None, folder: Path) -> Standing | None:
    """The chain of trust statements that the folder is to hold: the one that is given, or that it has."""
    place = folder / trust_statements.NAME
    _check_own(place)
    held = rotation.read(place) if place.exists() else None
    if given is None:
        return held
    chain = rotation.read(given)
    rotation.check_next(chain, str(given), held, str(folder))
    return chain


def _check_trusted(private: PrivateKey, chain: Standing) -> None:
    """Refuse a key whose index devices would refuse."""
    mine = public_half(private, "own").raw.hex()
    if mine not in {key.public for key in (*chain.trust.release, *chain.trust.delivery)}:
        raise Rejected(
            f"the key is none that trust statement {chain.trust.version} names; nothing was published",
            "Sign the index with a release or delivery key of it.",
        )


def _offered(path: Path, chain: Standing | None, progress: Progress) -> Offered:
    """What a file holds, all of which is read once: a damaged image must not reach a device."""
    if not path.is_file():
        raise Failed(f"there is no file {path}; nothing was published")
    with open_image(str(path), chain.trust.ring if chain else None) as opened:
        target, way = opened.manifest.target, opened.manifest.way
        if way.container != "tbdiff" or target.tree is None:
            raise Rejected(
                f"{path} is not an image of tbdiff's own form; nothing was published",
                "Make it one with `tbdiff convert`, and sign that.",
            )
        if not opened.claimed_signers:
            raise Rejected(f"{path} is not signed; nothing was published", "Sign it with: tbdiff sign")
        opened.check(progress)
        release = Release(
            tree=target.tree,
            name=target.name,
            release=target.release,
            epoch=target.epoch,
            device_types=target.device_types,
        )
        listed = ListedImage(
            file=f"{opened.digest}.tbdiff",
            size=path.stat().st_size,
            digest=opened.digest,
            tree=target.tree,
            base=way.base,
            free=way.free,
            encoders=way.encoders,
        )
    return Offered(path, release, listed)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time extends a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Failed(f"{folder} cannot be written to: {error.strerror}; nothing was published") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for left in folder.glob(".*.tbdiff.new"):
            # Of a run that was killed.
            left.unlink()
        yield
    finally:
        os.close(fd)


def _check_own(place: Path) -> None:
    """Refuse a link: who may write to the folder must not lead us to what only we may write to."""
    if place.is_symlink():
        raise Rejected(f"{place} is a symbolic link; the index was left as it was", "Remove it.")


def _check_readable(signed: bytes, private: PrivateKey, folder: Path) -> None:
    """Refuse an index that devices would refuse."""
    if len(signed) > INDEX_MAX:
        raise Rejected(
            f"the index of {folder} would have more than {INDEX_MAX >> 20} MiB, which no device reads; "
            "nothing was published",
            "Begin a new folder with the images that are still needed.",
        )
    read_index(signed, (public_half(private, "own"),))


def _present(folder: Path, private: PrivateKey, name: str, chain: Standing | None) -> Index | None:
    _check_own(folder / NAME)
    try:
        raw = read_plain(os.fspath(folder / NAME), INDEX_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failed(f"{folder / NAME} cannot be read: {error.strerror}; nothing was published") from None
    try:
        return read_index(raw, (public_half(private, name), *(chain.every_key if chain else ())))[0]
    except Rejected as error:
        raise Rejected(
            f"{folder / NAME} is not an index that this key made ({str(error).rstrip('.')}); nothing was published",
            "Use the key that made it, or begin a new folder.",
        ) from None


def _bring(one: Offered, folder: Path) -> None:
    place = folder / one.listed.file
    _check_own(place)
    try:
        # One of that size may have been damaged since.
        if place.exists() and filecmp.cmp(one.source, place, shallow=False):
            return
        with one.source.open("rb") as source, replacing(place) as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
            copy.flush()
            with open_image(copy.name) as again:
                if again.digest != one.listed.digest or copy.tell() != one.listed.size:
                    raise Rejected(f"{one.source} changed while it was published; the index was left as it was")
                again.check()
    except OSError as error:
        raise Failed(f"{place} cannot be written: {error.strerror}; the index was left as it was") from None


def _put(path: Path, data: bytes) -> None:
    try:
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}; it was left as it was") from None
