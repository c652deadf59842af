"""What the configured sources offer: their indexes, fetched, verified and not older than what was seen before."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pydantic

from tbdiff.errors import Failed, Rejected
from tbdiff.index import INDEX_MAX, NAME, Index, Instant, ListedImage, read_index
from tbdiff.line import Line
from tbdiff.manifest import Count
from tbdiff.output import replacing
from tbdiff.signature import KeyRing
from tbdiff.source import is_url, read_plain, read_small
from tbdiff.trust import CHAIN_MAX
from tbdiff.trust import NAME as CHAIN
from tbupdate.config import Source

log = logging.getLogger(__name__)

SEEN = "sources.json"
_SEEN_MAX = 1 << 20


class Seen(pydantic.BaseModel):
    """What was seen last of an index: nobody can lead this device back behind it."""

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, extra="ignore")

    version: Count
    issued: Instant


_ALL = pydantic.TypeAdapter(dict[str, Seen])


def offered(source: Source, keys: KeyRing, seen: dict[str, Seen], now: str, line: Line) -> Index:
    """The index of a source, from the first place with one that is fresh, and for which a trusted key answers."""
    own = source.url.rstrip("/")
    faults: list[Failed | Rejected] = []
    for folder in line.places(own):
        try:
            index = _read(folder, keys, replace(line, folders=()))
            check_fresh(source, index, seen, now)
            return index
        except (Failed, Rejected) as fault:
            faults.append(fault)
    raise faults[0]


def _read(folder: str, keys: KeyRing, line: Line) -> Index:
    raw = read_small(f"{folder}/{NAME}", INDEX_MAX + 1, line)
    if raw is None:
        raise Failed(f"there is no index of images at {folder}", "Make one with: tbdiff publish")
    if len(raw) > INDEX_MAX:
        raise Rejected(
            f"the index of images at {folder} is longer than any; nothing was changed",
            "See whether that is the folder; if it is, whoever publishes there should keep fewer images in it.",
        )
    # Whoever chooses among what release keys have signed need not be able to sign a release.
    index, _ = read_index(raw, keys.every_key)
    return index


def statements(source: Source, line: Line) -> bytes | None:
    """The chain of trust statements that a source has, unverified; None if it has none."""
    return read_small(f"{source.url.rstrip('/')}/{CHAIN}", CHAIN_MAX + 1, line)


def check_fresh(source: Source, index: Index, seen: dict[str, Seen], now: str) -> None:
    """Refuse what somebody may have kept from earlier, so that devices stay behind."""
    last = seen.get(source.url)
    if last is not None and index.version < last.version:
        raise Rejected(
            f"the index of images at {source.url} is older than the one that was seen last "
            f"({index.version}, not {last.version}); nothing was changed",
            "Somebody put an old one in its place, or it was begun anew: then remove that line of "
            f"{SEEN} in the directory tb-update of the top level.",
        )
    # A clock that stands in the past is not believed; moments of this form are in the order of their text. What other
    # sources say of the time does not count: one that is wrong must not keep us from the rest.
    moment = max(now, last.issued) if last is not None else now
    if index.expires < moment:
        raise Rejected(
            f"the index of images at {source.url} was good until {index.expires}, and it is {moment}; "
            "nothing was changed",
            "Whoever publishes there must renew it (tbdiff publish); or the clock of this device is wrong.",
        )


def address(source: Source, image: ListedImage) -> str:
    """Where an image of a source is."""
    return f"{source.url.rstrip('/')}/{image.file}"


def locate(folder: str, image: ListedImage) -> str:
    """Where it is in a folder, to be opened: there something else than a file could let us wait for ever."""
    place = f"{folder}/{image.file}"
    if not is_url(place) and not os.path.isfile(place):
        raise Failed(
            f"there is no file {place}, which the index names; nothing was changed",
            "Whoever publishes there should copy all of the folder.",
        )
    return place


def read_seen(state: str) -> dict[str, Seen]:
    """What was seen last of each source; nothing where that was lost."""
    try:
        return _ALL.validate_json(read_plain(os.path.join(state, SEEN), _SEEN_MAX))
    except (OSError, pydantic.ValidationError):
        return {}


def remember(state: str, seen: dict[str, Seen], heard: Sequence[tuple[Source, Index]]) -> None:
    """Write down what was seen now, if there is room: a full disk must not keep a device from an update."""
    new = seen | {source.url: Seen(version=index.version, issued=index.issued) for source, index in heard}
    if new == seen:
        return
    try:
        with replacing(Path(state, SEEN)) as file:
            file.write(_ALL.dump_json(new))
    except OSError as error:
        log.warning("what was seen of the sources could not be written down: %s", error.strerror)
