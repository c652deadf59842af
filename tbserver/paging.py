"""Long lists, a page at a time: each page ends with a key from which the next is read, so that no page costs more."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeVar

import pydantic
from fastapi import Query
from sqlalchemy import ColumnElement, Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from tbserver.refusals import NotValid

T = TypeVar("T")
PAGE, PAGE_MOST = 50, 500


class Page(pydantic.BaseModel, Generic[T]):
    """A part of a list; `next` is what to say as `after` for the part behind it, and is missing at the end."""

    items: list[T]
    next: str | None = None


class Asked(pydantic.BaseModel):
    """Which part of a list is asked for."""

    after: Annotated[str | None, pydantic.Field(max_length=1000)] = None
    limit: Annotated[int, pydantic.Field(ge=1, le=PAGE_MOST)] = PAGE


Paging = Annotated[Asked, Query()]


def read_page(
    session: Session,
    query: Select[Any],
    asked: Asked,
    keys: Sequence[InstrumentedAttribute[Any]],
    *,
    newest_first: bool = False,
) -> tuple[list[Any], str | None]:
    """Rows of `query` (of one entity) in the order of `keys`, which are unique and indexed; and the next key."""
    if asked.after is not None:
        query = query.where(_beyond(keys, _decode(asked.after, keys), newest_first=newest_first))
    order = [key.desc() if newest_first else key for key in keys]
    rows = list(session.scalars(query.order_by(*order).limit(asked.limit + 1)))
    if len(rows) <= asked.limit:
        return rows, None
    last = rows[asked.limit - 1]
    return rows[: asked.limit], _encode([getattr(last, key.key) for key in keys])


def _beyond(keys: Sequence[InstrumentedAttribute[Any]], at: list[Any], *, newest_first: bool) -> ColumnElement[bool]:
    left, right = (keys[0], at[0]) if len(keys) == 1 else (tuple_(*keys), tuple_(*at))
    return left < right if newest_first else left > right


def _encode(key: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def _decode(after: str, keys: Sequence[InstrumentedAttribute[Any]]) -> list[Any]:
    try:
        key = json.loads(base64.urlsafe_b64decode(after + "=" * (-len(after) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        key = None
    fits = (
        isinstance(key, list)
        and len(key) == len(keys)
        and all(type(part) is column.type.python_type for part, column in zip(key, keys, strict=True))
        and all(-(2**63) <= part < 2**63 for part in key if isinstance(part, int))
    )
    if not fits or "\0" in str(key):
        raise NotValid("`after` is no key of this list", "Take the `next` of the page before.")
    return list(key)
