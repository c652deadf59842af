"""A copy of all that a server keeps in its directory, made while it runs, with which it can be started again."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import make_url

from tbdiff.errors import Failed, Rejected
from tbdiff.output import replacing
from tbserver.settings import DELIVERY_KEY, Settings

_REMEDY = "See `Backup` in docs/server/running.md: pg_dump, and a copy of the store."


def back_up(settings: Settings, place: Path) -> str:
    """Bring the copy in a directory up to date, which is made if it is not there; Rejected, or Failed.

    What is not in it is said: a delivery key that is elsewhere, and was not named, is unknown here.
    Artifacts are named by what they hold, and never change: those that are there are not copied again. What was removed
    meanwhile stays in the copy, where it does no harm.
    """
    if settings.database or settings.artifacts:
        raise Rejected("a database or a store elsewhere is not copied by this; nothing was done", _REMEDY)
    records = make_url(settings.database_url).database
    if records is None or not Path(records).exists():
        raise Rejected(f"there are no records in {settings.data}; nothing was done", "Name the directory with --data.")
    if settings.delivery_key is not None and not settings.delivery_key.exists():
        raise Rejected(f"there is no delivery key {settings.delivery_key}; nothing was done", "Name the file of it.")
    if place.resolve().is_relative_to(settings.data.resolve()):
        raise Rejected("a copy inside of what is copied is none; nothing was done", "Name a place on another disk.")
    target = Settings(data=place)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Before the records, for what is removed meanwhile; and after them, for what has come.
        _copy_artifacts(settings.data, target.data)
        _copy_records(Path(records), place / Path(records).name)
        _copy_artifacts(settings.data, target.data)
        if settings.key.exists():
            _copy(settings.key, place / DELIVERY_KEY)
    except (OSError, sqlite3.Error) as error:
        raise Failed(
            f"the copy in {place} was not brought up to date: {error}",
            "The one before is there. See to that place, then run it again.",
        ) from None
    if (place / DELIVERY_KEY).exists():
        return ""
    return (
        f"There is no delivery key in {settings.data}, nor in the copy. Where the server was started with "
        "--delivery-key, name that file here, too, or keep a copy of it: devices trust that key, and no new one."
    )


def _copy_records(source: Path, target: Path) -> None:
    """As they are at one moment; what was there is replaced at once."""
    new = target.with_name(f"{target.name}.new")
    new.unlink(missing_ok=True)
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as here,
        closing(sqlite3.connect(new)) as there,
    ):
        os.chmod(new, 0o600)
        here.backup(there)
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.rename(target)


def _copy_artifacts(source: Path, target: Path) -> None:
    for folder, _, names in os.walk(source / "artifacts"):
        for name in names:
            path = Path(folder, name)
            other = target / path.relative_to(source)
            if other.exists():
                continue
            other.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # It may have been removed meanwhile.
            with suppress(FileNotFoundError):
                _copy(path, other)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as held, replacing(target) as file:
        os.fchmod(file.fileno(), source.stat().st_mode & 0o777)
        shutil.copyfileobj(held, file)
