"""A page as it is sent: templates, what is written how, and where a browser goes after a form."""

from __future__ import annotations

import functools
import re
import time
from datetime import UTC, datetime
from typing import Any, TypeVar

import jinja2
import pydantic
from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from tbdiff.errors import Stop
from tbdiff.show import size
from tbserver.accounts import Caller, Role
from tbserver.pages import assets, charts
from tbserver.refusals import MustChange, NotKnown, NotValid

O = TypeVar("O", bound=pydantic.BaseModel)  # noqa: E741
HTML = "text/html"
# What may follow the name of this server in an address that a browser is sent to.
_PLACE = re.compile(r"/([!-.0-\[\]-~][!-\[\]-~]*)?")


class Form(pydantic.BaseModel):
    """What a form sends, beside what shows that it is ours."""

    model_config = pydantic.ConfigDict(frozen=True)


def show(request: Request, caller: Caller | None, template: str, status: int = 200, **said: Any) -> Response:
    """A page, or a part of one."""
    return HTMLResponse(draw(request, caller, template, **said), status)


def draw(request: Request, caller: Caller | None, template: str, **said: Any) -> str:
    """The text of a page, or of a part of one."""
    return _templates().get_template(template).render(me=caller, here=request.url.path, now=int(time.time()), **said)


def go(place: str) -> Response:
    """After what was done: look at this, and reload it without doing it again."""
    return RedirectResponse(place, 303)


def is_wanted(request: Request) -> bool:
    """Whether who asks reads pages."""
    return HTML in request.headers.get("accept", "")


def refuse(request: Request, error: Stop, status: int) -> Response:
    """The page for a refusal: where to log in, or a sentence and what to do."""
    if isinstance(error, NotKnown):
        place = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return go(f"/login?{_query(next=place)}" if request.method == "GET" and place != "/" else "/login")
    if isinstance(error, MustChange):
        return go("/password")
    return wrong(request, status, str(error), error.remedy)


def wrong(request: Request, status: int, why: str, remedy: str = "") -> Response:
    """The page that says what was wrong."""
    return show(request, None, "wrong.html", status, why=why, remedy=remedy, code=status)


def inside(place: str) -> str:
    """A place on this server; anything else leads to the first page."""
    return place if _PLACE.fullmatch(place[:2000]) else "/"


def take(order: type[O], **said: Any) -> O:
    """What a form asks for as the API takes it; NotValid."""
    try:
        return order.model_validate(said)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"])
        raise NotValid(f"{where[:200]}: {first['msg']}"[:500], "Go back, and change that.") from None


def _query(**said: str) -> str:
    return str(jinja2.filters.do_urlencode(said))


@functools.cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("tbserver"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "moment": _moment,
        "ago": ago,
        "bytes": size,
        "plain": plain,
        "count": "{:,}".format,
    }
    made.globals |= {"Role": Role, "asset": assets.address, "charts": charts}
    return made


def plain(text: str) -> str:
    """What devices and people wrote, without what would change how it is read."""
    return "".join(one if one.isprintable() or one in "\n\t" else _escaped(one) for one in text)


def _escaped(one: str) -> str:
    return one.encode("unicode_escape").decode()


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC") if at else "never"


def ago(at: int, now: int) -> str:
    """How long ago something was, as people say it."""
    seconds = max(now - at, 0)
    if not at:
        return "never"
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            number = seconds // length
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"
