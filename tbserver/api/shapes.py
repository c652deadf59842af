"""What messages of the API are made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import annotated_types
import pydantic

from tbserver.accounts import Role


def _written(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_text(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("not a line of text without spaces around it")
    return text


class Shape(pydantic.BaseModel):
    """An answer."""

    model_config = pydantic.ConfigDict(
        frozen=True,
        from_attributes=True,
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )


class Order(pydantic.BaseModel):
    """The body of a request; what is not known is refused, as it would not be done."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


# A moment: seconds in the records, text as 2026-01-31T12:00:00Z in the API.
Moment = Annotated[
    int,
    pydantic.PlainSerializer(_written, return_type=str),
    pydantic.WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
Name = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=64), pydantic.AfterValidator(_is_text)]
# Of a thing: no database has a higher one.
Number = Annotated[int, annotated_types.Ge(0), annotated_types.Lt(1 << 63)]
RoleWord = Annotated[str, pydantic.AfterValidator(lambda word: Role.of(word).word)]
