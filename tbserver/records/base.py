"""What all tables are made of: keys, and how types are stored."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, ForeignKey, Integer, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite numbers rows by itself only where the key is an INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """All tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {dict[str, Any]: JSON, list[str]: JSON, str: Text, int: BigInteger}


def own_key() -> Mapped[int]:
    """The number of a row, given by the database."""
    return mapped_column(Id, primary_key=True, autoincrement=True)


def tenant(*, key: bool = False) -> Mapped[int]:
    """The tenant that a row belongs to."""
    return mapped_column(Id, ForeignKey("tenant.id"), primary_key=key)


def to(column: str, *, key: bool = False) -> Mapped[int]:
    """A row of another table, with which this one goes."""
    return mapped_column(Id, ForeignKey(column, ondelete="CASCADE"), primary_key=key)
