"""The schemas of what `tb-server` prints and the local socket takes, made of the models that both go by.

`python -m manual.schemas` writes them to docs/schemas; all others there are written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pydantic

from tbserver.api.audits import Entry
from tbserver.api.deltas import Deltas
from tbserver.api.devices import DeviceShown, DeviceTokenMade, DeviceWhole
from tbserver.api.groups import GroupShown
from tbserver.api.releases import ArtifactShown, Key, ReleaseShown, ReleaseWithArtifacts
from tbserver.api.rollouts import RolloutShown, RolloutWhole
from tbserver.api.statements import StatementShown
from tbserver.api.users import NewUserMade
from tbserver.api.webhooks import Hook, NewHookMade
from tbupdate.api import Request

PLACE = Path(__file__).parents[1] / "docs/schemas"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
Model = type[pydantic.BaseModel]


class Printed(pydantic.BaseModel):
    """What a command adds to the answer that it was given."""

    format_version: Literal[1] = pydantic.Field(
        description="The version of this form. New keys may come without a new one."
    )


def _list_of(model: Model, name: str = "items", **more: Any) -> Model:
    fields: dict[str, Any] = {name: (list[model], pydantic.Field(description="As many as were asked for."))}  # type: ignore[valid-type] # made here
    return pydantic.create_model("List", **more, **fields)


_GROUP = (GroupShown, pydantic.Field(description="The group."))
# By the name of the file: of which commands, what it is, and the model of the answer.
ANSWERS: dict[str, tuple[str, str, Model]] = {
    "upload": ("upload", "What became of the images.", _list_of(ArtifactShown, "artifacts")),
    "releases": ("releases", "Releases, the newest first.", _list_of(ReleaseShown)),
    "release": ("release", "What is in a release.", ReleaseWithArtifacts),
    "withdraw": ("withdraw", "The release as it is now.", ReleaseShown),
    "deltas": ("deltas", "Deltas between releases.", Deltas),
    "devices": ("devices", "Devices.", _list_of(DeviceShown)),
    "device": ("device", "What is known of a device.", DeviceWhole),
    "groups": ("groups", "The groups of devices.", _list_of(GroupShown)),
    "group": (
        "group",
        "A group and its devices; none of them where it was removed.",
        _list_of(DeviceShown, group=_GROUP),
    ),
    "rollouts": ("rollouts", "Rollouts, the newest first.", _list_of(RolloutShown)),
    "rollout": ("rollout, roll-out", "A rollout, and how far it is.", RolloutWhole),
    "keys": ("keys", "The keys that answer for uploads.", _list_of(Key)),
    "trust": ("trust", "The key that is trusted now.", Key),
    "statements": ("statements", "What devices are told of trusted keys.", StatementShown),
    "add-user": ("add-user", "An account that was made.", NewUserMade),
    "device-token": ("device-token", "A token for devices that was made.", DeviceTokenMade),
    "webhooks": ("webhooks", "The addresses that are told what is done.", _list_of(Hook)),
    "webhooks-add": ("webhooks --add", "An address that is told from now on.", NewHookMade),
    "audit": ("audit", "What was done, the newest first.", _list_of(Entry)),
}


def made() -> Iterator[tuple[str, str]]:
    """Each schema that is made, by the name of its file."""
    for name, (commands, about, model) in ANSWERS.items():
        whole = pydantic.create_model("Whole", __base__=(model, Printed))
        schema = _opened(whole.model_json_schema(mode="serialization"))
        yield _written(f"tb-server-{name}.json", f"tb-server {commands}", about, schema)
    about = "What a program says to the local socket, in a line; what is not named here is refused."
    yield _written("tb-update-api-request.json", "A request", about, _opened(Request.model_json_schema()))


def _written(name: str, title: str, about: str, schema: dict[str, Any]) -> tuple[str, str]:
    head = {"$schema": DRAFT, "$id": name, "title": title, "description": about}
    parts = {"$defs": schema.pop("$defs")} if "$defs" in schema else {}
    return name, json.dumps(head | {key: schema[key] for key in schema if key not in head} | parts, indent=2) + "\n"


def _opened(part: Any) -> Any:
    """A schema without what says nothing, by which more keys may come."""
    if isinstance(part, list):
        return [_opened(one) for one in part]
    if not isinstance(part, dict):
        return part
    found = {key: _opened(value) for key, value in part.items() if key not in ("title", "default", "properties")}
    if isinstance(found.get("description"), str):
        found["description"] = " ".join(found["description"].split())
    if "properties" in part:
        found["properties"] = {key: _opened(value) for key, value in part["properties"].items()}
        found.setdefault("additionalProperties", True)
    elif found.get("additionalProperties") is True:
        # Keys and values of any kind.
        found["additionalProperties"] = {}
    return found


if __name__ == "__main__":
    for file, text in made():
        (PLACE / file).write_text(text)
