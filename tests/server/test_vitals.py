"""Whether the server can answer, and figures for Prometheus."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tbserver.accounts import Role
from tests.server.harness import Fleet
from tests.server.test_tending import Park


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
