"""The configuration: /etc/tb-update/config.toml, where a key that is not known is named and refused."""

from __future__ import annotations

import re
import tomllib
import urllib.parse
import zoneinfo
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, get_args

import pydantic

from tbdiff.errors import Failed
from tbdiff.manifest import Word
from tbupdate.boot.chooser import PLAIN_WORD
from tbupdate.localchanges.policy import BOTH_WAYS, CARRY, DROP, OWN, check_pattern
from tbupdate.localchanges.policy import Policy as LocalPolicy
from tbupdate.naming import ControllerId
from tbupdate.offer import RESERVE

PATH = Path("/etc/tb-update/config.toml")
KEYS = Path("/etc/tb-update/keys")


KEEP_MAX = 1000
SIZE_MAX = 1 << 20
# The kinds of mistake, as pydantic calls them, for people; braces are filled in.
_MISTAKES = {
    "extra_forbidden": "is not a key that exists",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "string_pattern_mismatch": "may hold letters, digits and . _ + ~ : @ - only, and begins with a letter or digit",
    "path_type": 'must be a path, in quotes: "/etc/…"',
    "string_type": "must be text, in quotes",
    "model_type": "must be a table: [{key}]",
    "tuple_type": 'must be a list: ["/etc"]',
    "too_short": "must name at least one",
    "value_error": "{error}",
} | dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number, without quotes")
_MISTAKES |= dict.fromkeys(("float_type", "float_parsing"), "must be a number, without quotes")
_MISTAKES |= dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false, without quotes")


def _named(path: Path) -> Path:
    if path == Path():
        raise ValueError("must name a directory")
    return path


class _Table(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, extra="forbid")


Flag = Annotated[bool, pydantic.Field(strict=True)]
DAY = 24 * 3600


def _sayable(options: str) -> str:
    for word in options.split():
        if not PLAIN_WORD.fullmatch(word):
            raise ValueError(f"has {word!a}, and boot loaders agree on letters, digits and . _ , : = / @ + % ~ - only")
        if "subvol" in word:
            raise ValueError(f"has {word!a}: the default subvolume says what is /")
    return options


class Boot(_Table):
    """`[boot]`: who picks the kernel. With "none" it is managed elsewhere, and none is looked for.

    Without `options`, new entries have those of the entry before, or those that the kernel was started with.
    """

    chooser: Literal["auto", "none", "grub", "extlinux", "u-boot", "flash-kernel", "systemd-boot"] = "auto"
    options: Annotated[str, pydantic.AfterValidator(_sayable)] = ""
    tries: Annotated[int, pydantic.Field(ge=1, le=9, strict=True)] = 3


class Reserve(_Table):
    """`[space]`: the bytes that must stay free after a deploy, and that old deployments make room for."""

    reserve: Annotated[int, pydantic.Field(ge=0, strict=True)] = RESERVE
    min_free: Annotated[int, pydantic.Field(ge=0, strict=True)] = 0


class Health(_Table):
    """`[health]`: the checks after a boot. With `commit`, what is on trial is committed when they pass."""

    commit: Flag = True
    limit: Annotated[float, pydantic.Field(gt=0, le=DAY, strict=True)] = 60
    attempts: Annotated[int, pydantic.Field(ge=1, le=1000, strict=True)] = 3
    pause: Annotated[float, pydantic.Field(ge=0, le=DAY, strict=True)] = 10


Pattern = Annotated[str, pydantic.AfterValidator(check_pattern)]


class Local(_Table):
    """`[local]`: which local changes follow to another root, and whether one that conflicts stops a deploy.

    `volatile`: the root is made anew at each boot, with the local changes that were saved. The hook in the initramfs
    reads that as well (see `volatility`).
    """

    carry: tuple[Pattern, ...] = CARRY
    drop: tuple[Pattern, ...] = DROP
    both_ways: tuple[Pattern, ...] = BOTH_WAYS
    own: tuple[Pattern, ...] = OWN
    conflict: Literal["keep", "reject"] = "keep"
    volatile: Flag = False

    @property
    def policy(self) -> LocalPolicy:
        """The same, for who merges."""
        return LocalPolicy(self.carry, self.drop, self.both_ways, self.own, self.conflict == "reject")


def _address(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isascii()
    except ValueError:
        good = False
    if not good or any(c.isspace() for c in url):
        raise ValueError("must be an http:// or https:// address")
    return url


def _place(url: str) -> str:
    try:
        return url if url.startswith("/") and not any(c.isspace() for c in url) else _address(url)
    except ValueError:
        raise ValueError("must be an http:// or https:// address of a folder, or the absolute path of one") from None


def _proxy(url: str) -> str:
    if url in ("", "none"):
        return url
    if not url.startswith("http://"):
        raise ValueError('must be the http:// address of a proxy, or "none"')
    return _address(url)


def _zone(name: str) -> str:
    try:
        if name:
            zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        raise ValueError("must be the name of a time zone, such as Europe/Berlin") from None
    return name


def _time_of_day(text: str) -> str:
    if not re.fullmatch("([01][0-9]|2[0-3]):[0-5][0-9]", text):
        raise ValueError('must be a time of day, such as "02:30"')
    return text


Address = Annotated[str, pydantic.AfterValidator(_address)]


class Fetch(_Table):
    """`[fetch]`: how URLs are fetched: no faster than that (0: as fast as it comes), by a proxy, by which user."""

    bytes_per_second: Annotated[int, pydantic.Field(ge=0, strict=True)] = 0
    proxy: Annotated[str, pydantic.AfterValidator(_proxy)] = ""
    user: Annotated[str, pydantic.StringConstraints(pattern=r"^[a-z_][a-z0-9_-]*$")] = "nobody"


class Source(_Table):
    """`[[source]]`: a folder of images with its index, and the channel of it that this device follows.

    `mirrors` hold the same files. A server of the folder may send us to the origins of `redirects`, too. Only
    `certificates` (a file) are good for its servers, if there are some.
    """

    url: Annotated[str, pydantic.AfterValidator(_place)]
    channel: Word = "stable"
    mirrors: tuple[Address, ...] = ()
    redirects: tuple[Address, ...] = ()
    certificates: Path | None = None


def _server(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if not re.fullmatch(r"https?://[A-Za-z0-9._:\[\]-]+(/[A-Za-z0-9._~/-]*)?", url) or not parts.hostname:
        raise ValueError("must be the https:// address of a server")
    # Whoever listens on the way would learn the token.
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError("must begin with https://; http:// is for a server on this very machine")
    return url.rstrip("/")


class Server(_Table):
    """`[server]`: who this device reports to and is told by, in hawkBit's DDI protocol; empty `url`: nobody.

    `id` is what the device is called there; empty: made from its machine id. It shows the token in `token_file`, the
    one of its tenant in `gateway_token_file`, or the one it enrolled with, for which `enrol_token_file` is good once;
    or a `certificate` with its `key`. `ca` is the authority that the server's certificate must be of; empty: any that
    this system trusts. `commands` are those that it may give beside updates.
    """

    url: Annotated[str, pydantic.AfterValidator(_server)] | Literal[""] = ""
    tenant: ControllerId = "default"
    id: ControllerId | Literal[""] = ""
    token_file: str = ""
    gateway_token_file: str = ""
    enrol_token_file: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    commands: tuple[Literal["rollback", "postpone"], ...] = ("rollback", "postpone")

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> Server:
        if sum(map(bool, (self.token_file, self.gateway_token_file, self.enrol_token_file))) > 1:
            raise ValueError("names more than one file with a token")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("names a certificate without its key, or a key without its certificate")
        if (self.ca or self.certificate) and self.url.startswith("http://"):
            raise ValueError("names certificates, but the url is http://")
        return self


Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)


Policy = Literal["auto", "download", "ask"]
Act = Literal["fetch", "deploy", "reboot"]


class Upgrade(_Table):
    """`[upgrade]`: what `upgrade` goes to (empty: the newest), and what it does unattended.

    `policy` "ask" waits for a person's approval, "download" fetches before it asks; `reboot` reboots into what was
    deployed; `zone` is the time zone of the maintenance windows (empty: the device's own).
    """

    at_most: Word | Literal[""] = ""
    exactly: Word | Literal[""] = ""
    policy: Policy = "auto"
    reboot: Flag = False
    mains_only: Flag = False
    idle_only: Flag = False
    zone: Annotated[str, pydantic.AfterValidator(_zone)] = ""


class Window(_Table):
    """`[[window]]`: when something may happen unattended; on `days` from `start` on, for so many minutes.

    Where no window names "fetch", what is fetched comes when it may be deployed.
    """

    allows: Annotated[tuple[Act, ...], pydantic.Field(min_length=1)] = ("deploy", "reboot")
    days: Annotated[tuple[Day, ...], pydantic.Field(min_length=1)] = DAYS
    start: Annotated[str, pydantic.AfterValidator(_time_of_day)]
    minutes: Annotated[int, pydantic.Field(ge=1, le=7 * 24 * 60, strict=True)] = 60


class Consent(_Table):
    """`[consent]`: the group whose members may answer for the device by the local socket; empty: only root."""

    group: str = ""


def _absolute(path: str) -> str:
    if path and not path.startswith("/"):
        raise ValueError("must be an absolute path")
    return path


class Metrics(_Table):
    """`[metrics]`: the file for the collector of Prometheus' node exporter; empty: none."""

    textfile: Annotated[str, pydantic.AfterValidator(_absolute)] = ""


class Config(_Table):
    """Everything that can be configured."""

    keys: Annotated[Path, pydantic.AfterValidator(_named)] = KEYS
    threshold: Annotated[int, pydantic.Field(ge=1, le=32, strict=True)] = 1
    device_type: Word | None = None
    keep: Annotated[int, pydantic.Field(ge=1, le=KEEP_MAX, strict=True)] = 5
    boot: Boot = Boot()
    health: Health = Health()
    local: Local = Local()
    space: Reserve = Reserve()
    upgrade: Upgrade = Upgrade()
    fetch: Fetch = Fetch()
    consent: Consent = Consent()
    metrics: Metrics = Metrics()
    source: tuple[Source, ...] = ()
    window: tuple[Window, ...] = ()
    server: Server = Server()


def load(path: Path | None) -> Config:
    """Read the configuration; without a path, the machine's own, which need not exist."""
    try:
        with (path or PATH).open(encoding="utf-8") as file:
            text = file.read(SIZE_MAX + 1)
    except FileNotFoundError:
        if path is None:
            return Config()
        raise Failed(f"there is no configuration at {path}", "Name it with --config FILE.") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise Failed(
            f"the configuration {path or PATH} cannot be read: {why}",
            "Run it as root; it must be a text file in UTF-8.",
        ) from None
    if len(text) > SIZE_MAX:
        raise Failed(f"the configuration {path or PATH} is larger than 1 MiB", "Name a configuration with --config.")
    try:
        said = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits is no TOMLDecodeError.
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error).partition(";")[0]
        raise Failed(
            f"{path or PATH} is not valid TOML: {why}",
            "Correct it there. All that it may say is in tb-update.toml(5).",
        ) from None
    try:
        return Config.model_validate(said)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        what = _MISTAKES.get(first["type"], "is not valid").format(key=key, **first.get("ctx", {}))
        if first["type"] == "tuple_type" and len(first["loc"]) == 1:
            what = f"must be tables, each below a line [[{key}]]"
        raise Failed(
            f"{path or PATH}: {key} {what}", f"Known keys: {', '.join(_known_beside(first['loc']))}."
        ) from None


def _known_beside(place: tuple[int | str, ...]) -> Iterable[str]:
    """The keys of the table that a key stands in."""
    field = Config.model_fields.get(str(place[0])) if len(place) > 1 else None
    named = () if field is None else (field.annotation, *get_args(field.annotation))
    table = next((one for one in named if isinstance(one, type) and issubclass(one, _Table)), Config)
    return table.model_fields
