"""The commands that steer a server over its API: what they ask, and what they tell of the answers."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbdiff.console import safe
from tbdiff.errors import Failed, Rejected, Stop
from tbserver.answers import Answer, asks, cell, listed, table

if TYPE_CHECKING:
    from tbserver.client import Client

ROLES = click.Choice(["viewer", "operator", "approver", "admin"])
STEPS = click.Choice(["approve", "pause", "resume", "cancel", "retry", "rollback"])
# Groups are made by hand: there are not so many.
_ALL = 10_000
# At a time.
_PUT_MOST = 500
_SUCH_AS = 'Write one such as {"soak_seconds": 3600}.'


_limit = click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
_images = click.argument(
    "images", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)


@asks
@_images
def upload(client: Client, images: tuple[Path, ...]) -> Answer:
    """Send signed images; an upload that broke off goes on where it was."""
    from tbdiff.image import open_image  # noqa: PLC0415 - only here are images looked at

    for image in images:
        # Before anything is sent. Whether anybody trusts who signed it, the server alone knows.
        with open_image(str(image)):
            pass
    made: list[dict[str, Any]] = []
    for image in images:
        try:
            made.append(client.upload(image, functools.partial(_progress, image)))
        except Stop as stop:
            raise _halfway(stop, images, len(made)) from None
    sent = zip(images, made, strict=True)
    return {"artifacts": made}, [
        f"{safe(str(image))}: {one['digest']}, release {one['release_id']}" for image, one in sent
    ]


def _halfway(stop: Stop, images: Sequence[Path], done: int) -> Stop:
    """What ended an upload, and of several images which were sent; it was refused only if none was."""
    if len(images) == 1:
        return stop
    said = f"{images[done]}: {str(stop).rstrip('.')}"
    if not done:
        return type(stop)(f"{said}; none of the images was uploaded", stop.remedy)
    sent, left = (", ".join(map(str, some)) for some in (images[:done], images[done:]))
    again = f"What is still to be uploaded: {left}"
    return Failed(f"{said}; uploaded before it: {sent}", f"{stop.remedy} {again}".strip())


def _progress(image: Path, done: int, whole: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{safe(image.name)}: {100 * done // whole} %", nl=done == whole, err=True)


@asks
@_limit
def releases(client: Client, limit: int) -> Answer:
    """List releases, the newest first."""
    return listed(client, "/releases", limit, "id", "version", "name", "device_types", "size", "created")


@asks
@click.argument("number", type=int)
def release(client: Client, number: int) -> Answer:
    """Show what is in a release: its sizes by device type, and what is new against the release before it."""
    whole = client.ask("GET", f"/releases/{number}")
    one, news = whole["release"], whole["news"]
    lines = [f"{one['id']} {cell(one['name'])} {cell(one['version'])}{', withdrawn' if one['withdrawn'] else ''}"]
    sizes = [size | {"device_type": size["device_type"] or "any"} for size in whole["sizes"]]
    return whole, [*lines, *table(sizes, "device_type", "size", "full", "delta"), *(_news(news) if news else [])]


def _news(news: dict[str, Any]) -> list[str]:
    since = f"against {cell(news['since'])}"
    if news["state"] != "done":
        return [f"{since}: {news['state']}, {cell(news['why'])}"]
    found = news["found"]
    files = (f"{one['count']} {kind} ({one['size']} bytes)" for kind, one in found["files"].items())
    lines = [f"{since}: {', '.join(files)}; {found['touched']} otherwise different"]
    for what in ("packages", "kernels"):
        for kind, some in found[what].items():
            lines += [f"{what} {kind}: {some['count']}: {cell(some['names'])}"] if some["count"] else []
    return lines


@asks
def deltas(client: Client) -> Answer:
    """List deltas between releases: those that are there, and why the others are not."""
    found = client.ask("GET", "/deltas")
    columns = ("release", "base_release", "devices", "state", "size", "saved", "why")
    key = found["key"]
    lines = [f"{found['made'] >> 20} MiB of {found['budget'] >> 20} MiB are made here"]
    lines += [f"signed by the delivery key {key['key_id']}, trusted by {key['trusted_by']} devices"] if key else []
    return found, [*table(found["items"], *columns), *lines]


@asks
@click.option("--filter", "filter_", default="", help='Such as: device_type = kiosk and not site = "berlin *".')
@click.option("--state", type=click.Choice(["new", "idle", "updating", "failed"]), help="Only those.")
@_limit
def devices(client: Client, filter_: str, state: str | None, limit: int) -> Answer:
    """List devices."""
    asked = {"filter": filter_, "state": state}
    return listed(client, "/devices", limit, "id", "controller", "state", "release", "system", "seen", **asked)


def _find_device(client: Client, name: str) -> dict[str, Any]:
    meant = 'id = "{}"'.format(name.replace('"', "").replace("*", ""))
    found: list[dict[str, Any]] = list(client.list("/devices", 1, filter=meant))
    if not found:
        raise Rejected(f"there is no device {name}; nothing was changed", "See: tb-server devices")
    return found[0]


@asks
@click.argument("name")
@click.option("--revoke/--allow", "revoked", default=None, help="Let it ask no more, or again.")
def device(client: Client, name: str, revoked: bool | None) -> Answer:
    """Show a device: what it runs, what it is to do, and why it waits."""
    place = f"/devices/{_find_device(client, name)['id']}"
    if revoked is not None:
        client.ask("PATCH", place, json={"revoked": revoked})
    whole = client.ask("GET", place)
    one = whole["device"]
    lines = [
        f"{key}: {cell(one[key])}" for key in ("controller", "state", "release", "system", "health", "revoked", "seen")
    ]
    lines += [f"{safe(key)}: {cell(value)}" for key, value in sorted(whole["attributes"].items()) if key != "release"]
    lines += [f"{cell(todo['rollout'])}: {todo['state']}, {cell(todo['why'])}" for todo in whole["todo"]]
    return whole, lines


@asks
@_limit
def groups(client: Client, limit: int) -> Answer:
    """List the groups of devices."""
    return listed(client, "/groups", limit, "id", "name", "created")


@asks
@click.argument("name")
@click.option("--make", is_flag=True, help="Make it, if it is not there.")
@click.option("--put", multiple=True, metavar="DEVICE", help="Put a device in; repeatable.")
@click.option("--take", multiple=True, metavar="DEVICE", help="Take a device out; repeatable.")
@click.option("--remove", is_flag=True, help="Remove the group; its devices stay.")
@_limit
def group(client: Client, name: str, put: tuple[str, ...], take: tuple[str, ...], limit: int, **said: bool) -> Answer:
    """Show a group of devices, or put devices in and take them out."""
    if said["remove"] and (put or take or said["make"]):
        raise click.UsageError("--remove takes no other options")
    held = [one for one in client.list("/groups", _ALL) if one["name"] == name]
    if not held and not said["make"]:
        raise Rejected(f"there is no group {safe(name)}", "See: tb-server groups; or make it with --make.")
    # All of them, before anything is changed.
    coming, going = ([_find_device(client, each) for each in some] for some in (put, take))
    one = held[0] if held else client.ask("POST", "/groups", json={"name": name})
    place = f"/groups/{one['id']}"
    for begin in range(0, len(coming), _PUT_MOST):
        some = [each["controller"] for each in coming[begin : begin + _PUT_MOST]]
        client.ask("POST", f"{place}/devices", json={"controllers": some})
    for each in going:
        client.ask("DELETE", f"{place}/devices/{each['id']}")
    if said["remove"]:
        client.ask("DELETE", place)
        return {"group": one, "items": []}, [f"{cell(name)} is no group any more."]
    found, lines = listed(client, f"{place}/devices", limit, "id", "controller", "state", "release", "seen")
    return {"group": one} | found, lines


@asks
@click.argument("release", type=int)
@click.option("--undo", is_flag=True, help="Allow it again.")
def withdraw(client: Client, release: int, undo: bool) -> Answer:
    """Let nobody get the release of that number any more: its rollouts end; who runs it keeps it."""
    done = client.ask("PATCH", f"/releases/{release}", json={"withdrawn": not undo})
    return done, [f"{cell(done['version'])} is {'withdrawn' if done['withdrawn'] else 'allowed'}."]


@asks
@click.option("--add", nargs=2, metavar="NAME URL", help="Let an address be told; its secret is shown once.")
@click.option("--on", "actions", multiple=True, metavar="ACTION", help="Told of what, such as rollout.* (the default).")
@click.option("--remove", type=int, metavar="ID", help="Let one be told nothing more.")
@_limit
def webhooks(
    client: Client, add: tuple[str, str] | None, actions: tuple[str, ...], remove: int | None, limit: int
) -> Answer:
    """List the addresses that are told what is done; or let one be told, or no more."""
    if add is None and actions:
        raise click.UsageError("--on says of what an address is told that comes with --add")
    if None not in (add, remove) and remove not in (one["id"] for one in client.list("/webhooks", _ALL)):
        raise Rejected(f"there is no webhook {remove}; nothing was changed", "See: tb-server webhooks")
    made = None
    if add is not None:
        wanted = {"name": add[0], "url": add[1]} | ({"actions": actions} if actions else {})
        made = client.ask("POST", "/webhooks", json=wanted)
    if remove is not None:
        client.ask("DELETE", f"/webhooks/{remove}")
    if made is not None:
        return made, [f"{made['webhook']['id']}: its secret is {made['secret']}"]
    return listed(client, "/webhooks", limit, "id", "name", "url", "actions", "told", "fault")


@asks
@_limit
def rollouts(client: Client, limit: int) -> Answer:
    """List rollouts, the newest first."""
    return listed(client, "/rollouts", limit, "id", "name", "release", "state", "reason", "made_by", "created")


@asks
@click.argument("number", type=int)
@click.argument("step", required=False, type=STEPS)
def rollout(client: Client, number: int, step: str | None) -> Answer:
    """Show a rollout; or approve it, pause it, let it go on, cancel it, try again, or take it back."""
    place = f"/rollouts/{number}"
    whole = client.ask("POST", f"{place}/{step}") if step else client.ask("GET", place)
    return whole, _drawn(whole)


def _drawn(whole: dict[str, Any]) -> list[str]:
    one = whole["rollout"]
    head = f"{one['id']} {cell(one['name'])}: {one['state']}" + (f", {cell(one['reason'])}" if one["reason"] else "")
    phases = [{"phase": number} | phase for number, phase in enumerate(whole["phases"], 1)]
    return [head, *table(phases, "phase", "succeeded", "busy", "failed", "lost", "waiting", "total")]


@asks
@click.argument("release", type=int)
@click.option("--name", help="What it is called; by default after the release.")
@click.option("--filter", "filter_", default="", help="Which devices; by default all.")
@click.option("--phases", default="10 %, 50 %, rest", show_default=True, help="Numbers of devices, percentages, rest.")
@click.option("--errors", type=float, help="It stops when more percent of the devices failed.")
@click.option("--on-errors", type=click.Choice(["stop", "rollback"]), help="Only stop, or take it back.")
@click.option("--plan", type=click.File(), help="All else of the plan, as JSON.")
def roll_out(client: Client, release: int, filter_: str, phases: str, **said: Any) -> Answer:
    """Bring a release to devices."""
    from tbserver.rollout import read_phases  # noqa: PLC0415

    plan = {"phases": read_phases(phases)} | _plan(said["plan"])
    plan |= {key: said[key] for key in ("errors", "on_errors") if said[key] is not None}
    name = said["name"] or f"to {client.ask('GET', f'/releases/{release}')['release']['version']}"
    order = {"name": name, "release_id": release, "filter": filter_, "plan": plan}
    whole = client.ask("POST", "/rollouts", json=order)
    return whole, _drawn(whole)


def _plan(file: Any) -> dict[str, Any]:
    try:
        found = json.load(file) if file is not None else {}
    except ValueError as error:
        raise Rejected(f"{file.name} is no JSON: {error}; no rollout was made", _SUCH_AS) from None
    if not isinstance(found, dict):
        raise Rejected(f"{file.name} is no plan; no rollout was made", _SUCH_AS)
    return found


@asks
def keys(client: Client) -> Answer:
    """List the keys that answer for uploads."""
    return listed(client, "/keys", 500, "id", "name", "kind", "key_id", "created")


@asks
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="Whose it is.")
@click.option("--kind", type=click.Choice(["release", "delivery"]), default="release", show_default=True)
def trust(client: Client, file: Path, name: str, kind: str) -> Answer:
    """Trust a public key (PEM) from now on."""
    made = client.ask("POST", "/keys", json={"name": name, "kind": kind, "pem": file.read_text()})
    return made, [f"{cell(made['name'])} answers for uploads: {made['key_id']}"]


@asks
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--remove", is_flag=True, help="Tell devices of none any more; what they have learned stays.")
def statements(client: Client, file: Path | None, remove: bool) -> Answer:
    """Show what devices are told of trusted keys; or tell them of FILE, the trust.json that `tbdiff rotate` made."""
    if remove:
        if file is not None:
            raise click.UsageError("--remove takes no FILE: a chain that goes on from what is there takes its place")
        client.ask("DELETE", "/statements")
    put = {"content": file.read_bytes()} if file is not None else {}
    said = client.ask("PUT" if put else "GET", "/statements", **put)
    if not said["version"]:
        return said, ["none"]
    lines = [f"statement {said['version']}, of {said['issued']}, good until {said['expires']}"]
    for role in ("release", "delivery", "trust"):
        lines += [f"{role}: {safe(key['name'])} ({key['key_id']})" for key in said[role]]
    return said, [*lines, *(f"revoked: {key}" for key in said["revoked"])]


@asks
@click.argument("name")
@click.argument("role", type=ROLES)
def add_user(client: Client, name: str, role: str) -> Answer:
    """Make an account; its first password is printed once."""
    made = client.ask("POST", "/users", json={"name": name, "role": role})
    return made, [f"password of {cell(name)}, good for one login: {made['password']}"]


@asks
@click.argument("kind", type=click.Choice(["gateway", "enrolment"]))
@click.option("--name", required=True, help="What it is for.")
@click.option("--device", "controller", help="Only for this device.")
@click.option("--days", type=click.IntRange(1, 3650), help="Until it ends.")
def device_token(client: Client, kind: str, name: str, controller: str | None, days: int | None) -> Answer:
    """Make a token by which devices become known; it is printed once."""
    order = {"kind": kind, "name": name, "controller": controller, "days": days}
    made = client.ask("POST", "/device-tokens", json=order)
    return made, [made["secret"]]


@asks
@_limit
def audit(client: Client, limit: int) -> Answer:
    """List what was done, the newest first."""
    return listed(client, "/audit", limit, "at", "who", "action", "subject")


COMMANDS = (
    *(upload, releases, release, withdraw, deltas, devices, device, groups, group, rollouts, rollout, roll_out),
    *(keys, trust, statements, add_user, device_token, webhooks, audit),
)
