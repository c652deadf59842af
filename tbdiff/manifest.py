"""The signed header of an image: what tree it leads to (the target) and how it gets there (the way)."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Final, Literal, TypeVar

import pydantic

from tbdiff.errors import Malformed, Rejected

FORMAT_VERSION: Final = 1
CHUNKS_MAX = 1 << 19
COUNT_MAX = 2**63 - 1
STATEMENT_MAX = 1 << 20

# Parts of the format that an image may require of its reader. An unknown one is refused.
LZMA = "lzma"
FEATURES = frozenset({LZMA})
# What a message says of a statement: so many names, so many letters.
NAMED, SHOWN = 10, 200


def _inside(path: str) -> str:
    """A path that stays in the tree, of names without control characters."""
    names = path.split("/")
    if len(path.encode()) > 4095 or any(name in ("", ".", "..") for name in names) or not path.isprintable():
        raise ValueError("not a plain path inside the tree, such as boot/vmlinuz")
    return path


Hex256 = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, pydantic.Field(ge=0, le=COUNT_MAX)]
EncoderName = Annotated[str, pydantic.StringConstraints(pattern=r"^[a-z0-9]{1,16}(:[0-9]{1,4}){0,6}=[0-9a-f]{16}$")]
Word = Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~:@-]{0,99}$")]
PathInTree = Annotated[str, pydantic.AfterValidator(_inside)]
Line = Annotated[str, pydantic.StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f]{0,200}$")]


class Statement(pydantic.BaseModel):
    """What all that is signed has in common: strict, frozen, and exact about its own bytes."""

    # Keys that this version does not know are ignored; what must be known is listed in `requires`.
    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, strict=True, extra="ignore")

    type: str
    format: Literal[1] = FORMAT_VERSION
    requires: tuple[Word, ...] = ()

    def to_bytes(self) -> bytes:
        """The statement as it is signed: compact JSON; what has its default value is left out."""
        fields = {"type": self.type, "format": self.format} | self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


class Target(Statement):
    """What a release key answers for: a whole tree, by digest, and what it is.

    `tree` is the tree digest (None only for a tarball whose signer did not unpack it). `entries`, `size` and
    `largest` are exact: number of entries, bytes of all regular files, bytes of the largest. `epoch` is the rollback
    index. `kernel`, `initrd` and `devicetree` override where the system's boot files are looked for.
    """

    type: Literal["tbdiff-target"] = "tbdiff-target"
    name: Line = ""
    release: Word | None = None
    device_types: tuple[Word, ...] = ()
    epoch: Count = 0
    tree: Hex256 | None = None
    entries: Count = 0
    size: Count = 0
    largest: Count = 0
    kernel: PathInTree | None = None
    initrd: PathInTree | None = None
    devicetree: PathInTree | None = None


class Way(Statement):
    """What a release or delivery key answers for: the bytes that follow.

    `target` is the SHA-256 of the target statement, `base` the tree digest that the image starts from (None: from
    nothing). The payload is `payload` bytes in chunks of `chunk_size`, whose digests' digest is `chunks`.
    `streams` are the exact unpacked sizes of the payload's streams; those numbered in `lzma` are packed by LZMA2, the
    others by Zstandard. `free` the bytes that applying writes at most.
    `encoders` are the compressors that re-create packed files, as NAME=FINGERPRINT (docs/format.md, "Encoders").
    `container` says what the payload is: "tbdiff" or a tarball, as a full system ("tar") or as layer ("tar-delta"),
    or a stream of the legacy format ("legacy").
    """

    type: Literal["tbdiff-way"] = "tbdiff-way"
    target: Hex256
    container: Literal["tbdiff", "tar", "tar-delta", "legacy"] = "tbdiff"
    base: Hex256 | None = None
    payload: Count = 0
    chunk_size: Annotated[int, pydantic.Field(ge=4096, le=1 << 22)] = 1 << 18
    chunks: Hex256
    streams: tuple[Count, ...] = ()
    lzma: tuple[Count, ...] = ()
    encoders: tuple[EncoderName, ...] = ()
    free: Count = 0

    @property
    def over_any_base(self) -> bool:
        """Whether it goes over a base that it need not name."""
        return self.container in ("tar-delta", "legacy")

    @property
    def chunk_count(self) -> int:
        """How many chunks the payload has; the last may be short."""
        return -(-self.payload // self.chunk_size)


S = TypeVar("S", bound=Statement)


class Manifest(pydantic.BaseModel):
    """Both statements, as they are shown to people and programs."""

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True)

    target: Target
    way: Way


def parse_target(raw: bytes) -> Target:
    """Read a target statement whose signature was verified."""
    return parse(Target, raw)


def parse_way(raw: bytes, target: bytes) -> Way:
    """Read a way statement whose signature was verified; it must lead to the target statement `target`."""
    way = parse(Way, raw)
    if way.target != hashlib.sha256(target).hexdigest():
        raise Malformed("the image's way does not lead to the target that it carries")
    if list(way.lzma) != sorted({n for n in way.lzma if n < len(way.streams)}) or (
        way.lzma and LZMA not in way.requires
    ):
        raise Malformed("the image's way names streams that there are not, twice, or without requiring what they need")
    if way.chunk_count > CHUNKS_MAX:
        raise Malformed("the image's payload is cut into more chunks than a reader holds digests of")
    return way


class _Preface(pydantic.BaseModel):
    """What every statement of every version has: read first, so that a newer one is told from a wrong one."""

    model_config = pydantic.ConfigDict(defer_build=True, strict=True, extra="ignore")

    type: str
    format: int
    requires: tuple[Word, ...] = ()


def parse(model: type[S], raw: bytes, what: str = "the image's manifest") -> S:
    """Read a statement whose signature was verified; `what` it is, for the message where it cannot be."""
    try:
        preface = _Preface.model_validate_json(raw)
        if preface.format > FORMAT_VERSION:
            raise Rejected(
                f"{what} is of format {preface.format}; this tbdiff reads up to {FORMAT_VERSION}",
                "Update tbdiff first.",
            )
        unknown = sorted(set(preface.requires) - FEATURES)
        if unknown:
            raise Rejected(
                f"{what} needs what this tbdiff does not know: {', '.join(unknown[:NAMED])}",
                "Update tbdiff, or ask for one without it.",
            )
        return model.model_validate_json(raw)
    except pydantic.ValidationError as error:
        raise Rejected(f"{what} is not valid: {_first(error.errors(include_url=False))}") from None


def _first(errors: list[Any]) -> str:
    """The first thing that is wrong, in one line."""
    where = ".".join(str(part) for part in errors[0]["loc"])
    what = _said(errors[0])
    return f"{where[:SHOWN]}: {what}" if where else what


def _said(error: Any) -> str:
    """What is wrong, without what pydantic says before words of ours."""
    return str(error["msg"]).removeprefix("Value error, ")


_WORD = "holds at most 100 letters, digits and . _ + ~ : @ -, and begins with a letter or digit"
# What an option is, where what was said is not: the words of a pattern.
_RULES = {
    "name": "--name is text in one line, of at most 200 characters",
    "release": f"--release {_WORD}",
    "device_types": f"--device-type {_WORD}",
    "epoch": f"--epoch is a whole number, at most {COUNT_MAX}",
}


def misnamed(error: ValueError) -> str:
    """What is wrong with what options said of an image."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    first = errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    return _RULES.get(field) or f"--{field.replace('_', '-')}: {_said(first)}"
