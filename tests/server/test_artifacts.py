"""Uploads: in parts, taken up again, refused unless a trusted key answers for them; in a directory and in S3."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from tbserver.accounts import Role
from tbserver.store import AwayError, Store
from tests.server.harness import Fleet, Person
from tests.server.images import Works, upload


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Works:
    return Works(tmp_path_factory.mktemp("works"))


def trust(fleet: Fleet, works: Works, name: str = "release", kind: str = "release") -> dict[str, Any]:
    admin = fleet.person(Role.ADMIN, name=f"admin of {name}")
    made: dict[str, Any] = admin.post("/keys", name=name, kind=kind, pem=works.pem(name))
    return made


def objects(fleet: Fleet, kind: str) -> list[Path]:
    return [path for path in (fleet.server.settings.data / "artifacts" / kind).rglob("*") if path.is_file()]


def test_a_signed_image_becomes_a_release(a_fleet: Fleet, works: Works) -> None:
    trust(a_fleet, works)
    operator = a_fleet.person(Role.OPERATOR)
    full, delta = works.image("1.0"), works.image("1.1", "1.0")
    status, made = upload(operator, full, part=10_000)
    assert (status, made["digest"], made["base"]) == (201, hashlib.sha256(full.read_bytes()).hexdigest(), "")
    assert made["signers"] == ["release"]
    assert upload(operator, delta)[0] == 201
    releases = operator.get("/releases")["items"]
    assert [(one["version"], one["name"], one["device_types"]) for one in releases] == [
        ("1.1", "demo", ["kiosk"]),
        ("1.0", "demo", ["kiosk"]),
    ]
    shown = operator.get(f"/releases/{releases[0]['id']}")["artifacts"]
    assert [one["base"] for one in shown] == [releases[1]["tree"]]
    assert objects(a_fleet, "uploads") == []
    (kept,) = [path for path in objects(a_fleet, "artifacts") if path.name == made["digest"]]
    assert kept.read_bytes() == full.read_bytes()
    assert upload(operator, full)[0] == 409


def test_what_no_trusted_key_answers_for_is_refused_and_gone(a_fleet: Fleet, works: Works) -> None:
    trust(a_fleet, works)
    operator = a_fleet.person(Role.OPERATOR)
    image = works.image("1.0").read_bytes()
    bad = {
        "unsigned": works.image("1.0", key=None).read_bytes(),
        "stranger": works.image("1.0", key="stranger").read_bytes(),
        "short": image[:-1],
        "longer": image + b"x",
        "text": b"not an image at all",
        "tarball": b"ustar" * 500,
    }
    for name, data in bad.items():
        status, said = upload(operator, data)
        assert (status, bool(said["error"])) == (409, True), name
        assert str(a_fleet.server.settings.data) not in str(said), name
    assert operator.get("/releases")["items"] == []
    assert objects(a_fleet, "uploads") == objects(a_fleet, "artifacts") == []
    assert list(a_fleet.server.settings.scratch.iterdir()) == []


def test_each_bit_of_an_image_counts(small_fleet: Fleet, works: Works) -> None:
    trust(small_fleet, works)
    operator = small_fleet.person(Role.OPERATOR)
    image = works.image("1.0").read_bytes()
    for at in [*range(0, 1200, 40), *range(1200, len(image), len(image) // 20), len(image) - 1]:
        changed = bytearray(image)
        changed[at] ^= 1
        assert upload(operator, bytes(changed))[0] == 409, at


def test_a_delivery_key_answers_for_the_way_and_never_for_a_release(small_fleet: Fleet, works: Works) -> None:
    """What somebody can do who has the server's own key: choose ways to what was signed elsewhere; nothing else."""
    trust(small_fleet, works)
    trust(small_fleet, works, "delivery", "delivery")
    operator = small_fleet.person(Role.OPERATOR)
    full = works.image("1.1")
    assert upload(operator, works.image("1.1", "1.0", key="delivery", of=full))[0] == 201
    forged = works.image("6.6", key="delivery")
    status, said = upload(operator, forged)
    assert status == 409
    assert "signed by no trusted key" in str(said["error"])
    assert [one["version"] for one in operator.get("/releases")["items"]] == ["1.1"]


def test_a_key_that_is_distrusted_answers_for_nothing_more(small_fleet: Fleet, works: Works) -> None:
    key = trust(small_fleet, works)
    admin, operator = small_fleet.person(Role.ADMIN), small_fleet.person(Role.OPERATOR)
    assert admin.ask("POST", "/keys", json={"name": "again", "pem": works.pem("release")}).status_code == 409
    assert admin.ask("DELETE", f"/keys/{key['id']}").status_code == 204
    assert upload(operator, works.image("1.0"))[0] == 409


DEGENERATE = "MCowBQYDK2VwAyEAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
WEAK = f"-----BEGIN PUBLIC KEY-----\n{DEGENERATE}\n-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize("pem", ["", "nonsense", WEAK])
def test_what_is_no_key_is_not_trusted(small_fleet: Fleet, pem: str) -> None:
    answer = small_fleet.person(Role.ADMIN).ask("POST", "/keys", json={"name": "weak", "pem": pem})
    assert answer.status_code == 422
    assert "this is" in answer.json()["error"]


def begin(person: Person, data: bytes) -> str:
    said = {"digest": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return str(person.post("/uploads", **said)["id"])


def test_an_upload_goes_on_where_it_broke_off(a_fleet: Fleet, works: Works) -> None:
    trust(a_fleet, works)
    operator, other = a_fleet.person(Role.OPERATOR), a_fleet.person(Role.OPERATOR, name="other")
    data = works.image("1.0").read_bytes()
    place = f"/uploads/{begin(operator, data)}"
    assert operator.ask("PATCH", f"{place}?offset=0", content=data[:5000]).json()["received"] == 5000
    assert operator.ask("PATCH", f"{place}?offset=0", content=data[:5000]).status_code == 409
    assert operator.ask("PATCH", f"{place}?offset=6000", content=data[6000:]).status_code == 409
    assert operator.ask("PATCH", f"{place}?offset=5000", content=b"").status_code == 422
    assert operator.ask("PATCH", f"{place}?offset=5000", content=data).status_code == 422
    assert operator.ask("POST", f"{place}/finish").status_code == 409
    assert other.ask("PATCH", f"{place}?offset=5000", content=data[5000:]).status_code == 404
    status, _ = upload(operator, data)
    assert status == 201


def test_a_dropped_upload_leaves_nothing(small_fleet: Fleet) -> None:
    operator = small_fleet.person(Role.OPERATOR)
    place = f"/uploads/{begin(operator, b'x' * 100)}"
    operator.ask("PATCH", f"{place}?offset=0", content=b"x" * 50)
    assert len(objects(small_fleet, "uploads")) == 1
    assert operator.ask("DELETE", place).status_code == 204
    assert objects(small_fleet, "uploads") == []
    assert operator.ask("POST", f"{place}/finish").status_code == 404


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        said = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
        for name, value in (said | {"AWS_ENDPOINT": endpoint, "AWS_ALLOW_HTTP": "true"}).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="images")
        yield "s3://images/fleet"
    finally:
        server.stop()


def test_a_store_that_is_away_is_said(small_fleet: Fleet, works: Works) -> None:
    operator = small_fleet.person(Role.OPERATOR)
    place = small_fleet.server.settings.data / "artifacts/uploads/1"
    place.parent.mkdir()
    # No directory, where one has to be.
    place.write_bytes(b"")
    data = works.image("1.0").read_bytes()
    begun = operator.post("/uploads", digest=hashlib.sha256(data).hexdigest(), size=len(data))
    answer = operator.ask("PATCH", f"/uploads/{begun['id']}?offset=0", content=data)
    assert (answer.status_code, "the store of artifacts" in answer.text) == (503, True)
    assert str(small_fleet.server.settings.data) not in answer.text
    place.unlink()
    assert upload(operator, data)[0] == 409


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_a_store_keeps_what_it_is_given(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = Store(request.getfixturevalue("s3") if kind == "s3" else (tmp_path / "objects").as_uri())
    data = os.urandom(700_000)
    (tmp_path / "file").write_bytes(data)
    store.put_file("artifacts/1/a", tmp_path / "file")
    store.put("uploads/1/x/0", b"one")
    store.put("uploads/1/x/1", b"two")
    store.put("uploads/1/xy/0", b"other")
    assert b"".join(store.read("artifacts/1/a", 0, len(data))) == data
    assert b"".join(store.read("artifacts/1/a", 300_000, 300_001)) == data[300_000:300_001]
    assert (store.size("artifacts/1/a"), store.size("nothing")) == (len(data), None)
    store.remove("uploads/1/x")
    assert [store.size(f"uploads/1/{one}") for one in ("x/0", "x/1", "xy/0")] == [None, None, 5]
    with pytest.raises(FileNotFoundError):
        list(store.read("nothing", 0, 1))
    with pytest.raises(AwayError):
        list(store.read("artifacts/1/a", len(data) + 1, len(data) + 2))
