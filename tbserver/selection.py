"""Filters as conditions of the database: the same devices as `filters.matches` means, found by indexes."""

from __future__ import annotations

import typing

import sqlalchemy
from sqlalchemy import ColumnElement, and_, exists, not_, or_, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from tbserver.filters import GROUP, ID, All, Any, Condition, Filter, Not
from tbserver.records import Attribute, Device, Group, Member


def meant(given: Filter) -> ColumnElement[bool]:
    """The condition on devices that a filter is."""
    match given:
        case Condition(key, pattern):
            return _condition(key, pattern)
        case Not(one):
            return not_(meant(one))
        case All(of):
            return and_(true(), *map(meant, of))
        case Any(of):
            return or_(*map(meant, of))


def _condition(key: str, pattern: str) -> ColumnElement[bool]:
    if key == ID:
        return _looks_like(Device.controller, pattern)
    if key == GROUP:
        return exists().where(
            Member.device_id == Device.id, Member.group_id == Group.id, _looks_like(Group.name, pattern)
        )
    mine = (Attribute.device_id == Device.id, Attribute.key == key)
    has = exists().where(*mine, _looks_like(Attribute.value, pattern))
    if pattern.strip("*"):
        return has
    # What a device does not say is as if it said nothing, which such a pattern allows.
    return or_(has, not_(exists().where(*mine)))


def _looks_like(column: InstrumentedAttribute[str], pattern: str) -> ColumnElement[bool]:
    if "*" not in pattern:
        return column == pattern
    return sqlalchemy.type_coerce(_Looks(column, sqlalchemy.literal(pattern)), sqlalchemy.Boolean)


class _Looks(FunctionElement[bool]):
    """Whether a text looks like a pattern, by the operator of the database that minds capitals."""

    inherit_cache = True
    type = sqlalchemy.Boolean()


@compiles(_Looks, "sqlite")
def _looks_in_sqlite(element: _Looks, compiler: SQLCompiler, **more: typing.Any) -> str:
    text, pattern = element.clauses
    # Of GLOB's marks only * is one of ours.
    plain = f"replace(replace({compiler.process(pattern, **more)}, '[', '[[]'), '?', '[?]')"
    return f"({compiler.process(text, **more)} GLOB {plain})"


@compiles(_Looks, "postgresql")
def _looks_in_postgresql(element: _Looks, compiler: SQLCompiler, **more: typing.Any) -> str:
    text, pattern = element.clauses
    plain = compiler.process(pattern, **more)
    for mark in ("~", "%%", "_"):
        plain = f"replace({plain}, '{mark}', '~{mark}')"
    return f"({compiler.process(text, **more)} LIKE replace({plain}, '*', '%%') ESCAPE '~')"
