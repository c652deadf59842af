"""Whether the server can answer, and figures for Prometheus."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select

from tbserver import workshop
from tbserver.accounts import Role
from tbserver.records import Device
from tbserver.tokens import digest
from tests.server.harness import Fleet
from tests.server.images import Works
from tests.server.test_tending import Park
from tests.server.test_workshop import Depot


def figures(fleet: Fleet, secret: str) -> dict[tuple[str, ...], float]:
    answer = fleet.web.get("/metrics", headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_figures_of_a_fleet_and_of_nobody_elses(a_fleet: Fleet) -> None:
    park = Park(a_fleet, 10)
    number = str(park.order({"phases": [{"devices": 4}, {}]}))
    park.tend()
    for controller, action in park.poll()[:2]:
        park.tell(controller, action, "success", "2.0")
    seen = figures(a_fleet, park.operator.secret)
    assert (seen["tb_devices_running", "1.0"], seen["tb_devices_running", "2.0"]) == (8, 2)
    assert (seen["tb_devices", "updating"], seen["tb_rollouts", "running"]) == (2, 1)
    stages = {key[3]: value for key, value in seen.items() if key[:3] == ("tb_rollout_devices", "to 2.0", number)}
    assert stages == {"waiting": 6, "busy": 2, "succeeded": 2, "failed": 0, "lost": 0}
    assert seen["process_resident_memory_bytes",] > 1 << 20
    assert seen["tb_requests_total", "api", "2xx"] >= 1
    stranger = a_fleet.person(Role.VIEWER, a_fleet.tenant("other"))
    other = figures(a_fleet, stranger.secret)
    assert not [key for key in other if key[0] in ("tb_devices", "tb_devices_running", "tb_rollout_devices")]
    assert other["tb_requests_total", "pages", "2xx"] == 1


def test_figures_of_deltas(small_fleet: Fleet, tmp_path: Path) -> None:
    depot = Depot(small_fleet, Works(tmp_path), v1_0=1, v1_1=1)
    secret, web = depot.operator.secret, small_fleet.web
    with small_fleet.server.database.writing() as session:
        for device in session.scalars(select(Device)):
            device.token = digest(device.controller)
    assert workshop.make_next(small_fleet.server)
    assert workshop.make_next(depot.server(seconds=0))
    (made,) = depot.made()
    seen = figures(small_fleet, secret)
    states = {key[1]: value for key, value in seen.items() if key[0] == "tb_deltas"}
    assert states == {"made": 1, "failed": 1, "uploaded": 0, "making": 0, "waiting": 0, "not made": 0}
    assert seen["tb_deltas_made_bytes",] == made.size
    sizes = []
    for controller in ("box-v1_0-0", "box-v1_1-0"):
        headers = {"Authorization": f"TargetToken {controller}"}
        base = web.get(f"/default/controller/v1/{controller}", headers=headers).json()["_links"]["deploymentBase"][
            "href"
        ]
        first = web.get(base, headers=headers).json()["deployment"]["chunks"][0]["artifacts"][0]
        place = first["_links"]["download"]["href"]
        for more in ({}, {"Range": "bytes=9-"}):
            assert web.get(place, headers=headers | more).status_code in (200, 206)
        assert web.head(place, headers=headers).status_code == 200
        sizes.append(first["size"])
    seen = figures(small_fleet, secret)
    assert (seen["tb_downloads_total", "full"], seen["tb_downloads_total", "delta"]) == (1, 1)
    # One had the delta, the other one the full image.
    assert seen["tb_saved_bytes_total",] == max(sizes) - made.size == abs(sizes[0] - sizes[1])
    stranger = small_fleet.person(Role.VIEWER, small_fleet.tenant("other"))
    assert figures(small_fleet, stranger.secret)["tb_deltas", "made"] == 0


def test_it_says_when_it_should_be_asked_no_more(small_fleet: Fleet) -> None:
    assert (answer := small_fleet.web.get("/healthz")).status_code == 200
    assert answer.json() == {"status": "ok"}
    small_fleet.web.app.state.is_stopping = lambda: True  # type: ignore[attr-defined]
    assert small_fleet.web.get("/healthz").status_code == 503
    small_fleet.web.app.state.is_stopping = lambda: False  # type: ignore[attr-defined]
    small_fleet.server.database.close()
    (small_fleet.server.settings.data / "records.sqlite").unlink()
    (small_fleet.server.settings.data / "records.sqlite").mkdir()
    assert small_fleet.web.get("/healthz").status_code == 503
