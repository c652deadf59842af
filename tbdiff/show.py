"""An image shown to a person or a program: who made it, where it leads, what it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tbdiff.changes import Change
from tbdiff.entry import printable
from tbdiff.manifest import Manifest, Way

if TYPE_CHECKING:
    from tbdiff.costs import Costs

FORMAT_VERSION = 1
SHOWN = 20
KINDS = ("added", "changed", "removed", "renamed")
SIGNS = {"added": "+", "changed": "~", "removed": "-", "renamed": ">"}


def size(count: int) -> str:
    """A number of bytes as a person says it."""
    if count == 1:
        return "1 byte"
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{count} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def as_text(
    manifest: Manifest,
    digest: str,
    signers: Sequence[str],
    claimed: Sequence[str],
    found: Sequence[Change] | None,
    *,
    everything: bool,
) -> Iterator[str]:
    """The image as lines of text."""
    target, way = manifest.target, manifest.way
    title = " ".join(filter(None, (printable(target.name.encode()), target.release))) or "(no name)"
    yield f"Image     {title}"
    yield f"For       {', '.join(target.device_types) or 'any device'}"
    nothing = "a base that it does not name" if way.over_any_base else "nothing (a full system)"
    yield f"From      {'tree ' + way.base[:16] + '…' if way.base else nothing}"
    yield f"To        {'tree ' + target.tree[:16] + '…' if target.tree else 'a tree'}" + (
        f", {target.entries:,} entries, {size(target.size)}" if target.entries else ""
    )
    if way.payload:
        yield f"Payload   {size(way.payload)}; writes at most {size(way.free)}"
    if signers or not claimed:
        yield f"Signed    {', '.join(signers) or 'by nobody'}"
    else:
        yield f"Signed    by {', '.join(claimed)}, it says (not verified: no --keys)"
    yield f"Digest    {digest}"
    if found is None:
        return
    yield ""
    yield from _summary(found)
    named = [change for change in found if change.path is not None]
    if not everything and len(named) > SHOWN:
        largest = sorted(named, key=lambda change: -(change.size or 0))[:SHOWN]
        named = sorted(largest, key=lambda change: change.path or b"")
        yield f"The {SHOWN} largest (all with --operations):"
    yield from map(line, named)


def _start(way: Way) -> str:
    if way.base:
        return f"tree {way.base[:16]}…"
    return "what it is laid over (a layer)" if way.container == "tar-delta" else "nothing (a full system)"


def _summary(found: Sequence[Change]) -> Iterator[str]:
    counts = Counter(change.kind for change in found)
    if not counts:
        yield "Changes nothing: base and target are the same."
        return
    new = sum(change.size or 0 for change in found)
    yield ", ".join(f"{counts[kind]:,} {kind}" for kind in KINDS if counts[kind]) + f"; {size(new)} of new content"
    unnamed = sum(change.path is None for change in found)
    if unnamed:
        yield f"({unnamed:,} of them only in owner, mode, time or attributes; their names are in the base)"


def line(change: Change) -> str:
    """One change as a line."""
    name = printable(change.path or b"") or "/" if change.path is not None else "(unnamed)"
    amount = [] if change.size is None else [size(change.size)]
    return " ".join([SIGNS[change.kind], name, *details(change), *amount])


def details(change: Change) -> list[str]:
    """What there is to say of a change, but its name and size."""
    if change.kind == "renamed":
        return [f"(was {printable(change.source or b'')})"]
    if change.source is not None:
        return [f"(copy of {printable(change.source)})"]
    if change.what and change.kind == "changed":
        return [f"({', '.join(change.what)})"]
    return []


CAUSES = {
    "delta": "deltas: contents built on other files",
    "recompressed": "deltas of what packed files hold",
    "new": "new contents",
    "metadata": "metadata of all entries",
    "names": "names for `show`",
    "signatures": "signatures",
    "head": "manifest, digests of chunks, framing",
}


def costs_text(costs: Costs) -> Iterator[str]:
    """What an image's bytes are spent on, as lines of text."""
    yield f"{size(costs.size):>11}  in all"
    yield ""
    for cause, stored in costs.causes.items():
        if stored:
            count = sum(file.cause == cause for file in costs.files)
            files = f" ({count:,} files)" if count else ""
            yield f"{size(stored):>11} {100 * stored / costs.size:5.1f} %  {CAUSES[cause]}{files}"
    if costs.files:
        yield ""
        yield f"The {SHOWN} dearest files (all with --json):" if len(costs.files) > SHOWN else "The files:"
    for file in costs.files[:SHOWN]:
        name = "(only the base tells its name)" if file.path is None else printable(file.path)
        share = 100 * file.stored / costs.size
        yield f"{size(file.stored):>11} {share:5.1f} %  {name} ({file.cause}, of {size(file.size)})"


def costs_json(costs: Costs) -> dict[str, Any]:
    """The same as a document."""
    return {
        "size": costs.size,
        "causes": costs.causes,
        "files": [
            _path_json(file.path) | {"cause": file.cause, "stored": file.stored, "size": file.size}
            for file in costs.files
        ],
    }


def as_json(
    manifest: Manifest,
    digest: str,
    signers: Sequence[str],
    claimed: Sequence[str],
    found: Sequence[Change] | None,
    *,
    everything: bool,
) -> dict[str, Any]:
    """The image as a document; `operations` only when asked for."""
    document: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "digest": digest,
        "target": manifest.target.model_dump(mode="json"),
        "way": manifest.way.model_dump(mode="json"),
        "signers": list(signers),
        "claimed_signers": list(claimed),
    }
    if found is not None:
        counts = Counter(change.kind for change in found)
        document["summary"] = {kind: counts[kind] for kind in KINDS} | {
            "new_bytes": sum(change.size or 0 for change in found)
        }
        if everything:
            document["operations"] = [change_json(change) for change in found]
    return document


def change_json(change: Change) -> dict[str, Any]:
    """One change; `path_bytes` in hex where the path is no valid UTF-8."""
    fields = {"kind": change.kind} | _path_json(change.path)
    fields["what"] = list(change.what)
    if change.source is not None:
        fields["source"] = printable(change.source)
    if change.size is not None:
        fields["size"] = change.size
    return fields


def _path_json(path: bytes | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"path": None if path is None else printable(path)}
    if path is not None and path != fields["path"].encode():
        fields["path_bytes"] = path.hex()
    return fields
