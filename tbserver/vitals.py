"""How the server itself is: whether it can answer, and figures for Prometheus of a tenant's fleet and the process."""

from __future__ import annotations

import logging
import time
from collections import Counter as Counted
from collections.abc import Iterable, Iterator

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tbserver import demand, tallies, tending
from tbserver.access import Here, Viewer
from tbserver.asking import PLACE
from tbserver.database import first_line
from tbserver.deltas import Facts, Stand, Trial, judge
from tbserver.records import Rollout
from tbserver.rollout import Counts, State

log = logging.getLogger(__name__)
router = APIRouter(include_in_schema=False)
# What devices say is theirs to choose; a page of figures has an end.
RELEASES_MOST, ROLLOUTS_MOST = 50, 50
FAILED = "failed"
STAGES = ("waiting", "busy", "succeeded", "failed", "lost")


@router.get("/healthz")
def health(server: Here, request: Request, response: Response) -> dict[str, str]:
    """Whether it can answer: 503 without the database, and while it stops, so that nothing more is sent here."""
    status = "stopping" if request.app.state.is_stopping() else "ok"
    try:
        with server.database.reading() as session:
            session.execute(text("select 1"))
    except DBAPIError as error:
        log.error("the database does not answer: %s", first_line(error))
        status = "no database"
    response.status_code = 200 if status == "ok" else 503
    return {"status": status}


@router.get("/metrics")
def metrics(server: Here, request: Request, caller: Viewer) -> Response:
    """Figures of the caller's fleet, and of the process that answers."""
    registry = CollectorRegistry()
    with server.database.reading() as session:
        facts = demand.facts_of(server, session, caller.tenant_id)
        registry.register(_Figures([*_of_fleet(session, caller.tenant_id), *_of_deltas(facts)]))
    ProcessCollector(registry=registry)
    served: Served = request.app.state.served
    return Response(generate_latest(registry) + generate_latest(served.registry), media_type=CONTENT_TYPE_LATEST)


class _Figures(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _of_fleet(session: Session, tenant_id: int) -> Iterator[Metric]:
    states = GaugeMetricFamily("tb_devices", "Devices by their state", labels=["state"])
    for state, count in sorted(tallies.read(session, tenant_id, tallies.DEVICES).items()):
        states.add_metric([state], count)
    yield states
    running = GaugeMetricFamily("tb_devices_running", "Devices by what they run", labels=["release"])
    for release, count in tallies.largest(tallies.read(session, tenant_id, tallies.RELEASES), RELEASES_MOST):
        running.add_metric([release], count)
    yield running
    made = GaugeMetricFamily("tb_rollouts", "Rollouts by their state", labels=["state"])
    query = select(Rollout.state, func.count()).where(Rollout.tenant_id == tenant_id).group_by(Rollout.state)
    for state, count in session.execute(query.order_by(Rollout.state)):
        made.add_metric([state], count)
    yield made
    yield _of_rollouts(session, tenant_id)


def _of_rollouts(session: Session, tenant_id: int) -> Metric:
    present = GaugeMetricFamily(
        "tb_rollout_devices", "Devices of rollouts that go on, by how they stand", labels=["rollout", "name", "stage"]
    )
    going = [state.value for state in (State.APPROVAL, State.PREPARING, State.RUNNING, State.PAUSED)]
    query = select(Rollout).where(Rollout.tenant_id == tenant_id, Rollout.state.in_(going))
    for row in session.scalars(query.order_by(Rollout.id.desc()).limit(ROLLOUTS_MOST)):
        whole = sum(tending.counts(session, row), Counts())
        for stage in STAGES:
            present.add_metric([str(row.id), row.name, stage], getattr(whole, stage))
    return present


def _of_deltas(facts: Facts) -> Iterator[Metric]:
    shown = GaugeMetricFamily("tb_deltas", "Deltas that devices could use, by how they stand", labels=["state"])
    failed = {pair for pair, one in facts.tried.items() if one.state is Trial.FAILED}
    counted = Counted(
        FAILED if one.stand is Stand.NOT and (one.base, one.release_id) in failed else one.stand.value
        for one in judge(facts)
    )
    for state in (*(stand.value for stand in Stand), FAILED):
        shown.add_metric([state], counted[state])
    yield shown
    made = sum(way.size for way in facts.ways if way.made)
    yield GaugeMetricFamily("tb_deltas_made_bytes", "Bytes of the deltas that were made here", made)


class Served:
    """A layer around the application that counts what is asked and how long it takes, by who asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.registry = CollectorRegistry()
        self._requests = Counter("tb_requests", "Requests answered", ["asked", "status"], registry=self.registry)
        self._downloads = Counter("tb_downloads", "Downloads that devices began", ["kind"], registry=self.registry)
        self._saved = Counter("tb_saved_bytes", "Bytes that deltas saved devices", registry=self.registry)
        self._seconds = Histogram("tb_request_seconds", "Until an answer began", ["asked"], registry=self.registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"].state.served = self
        begun, asked = time.monotonic(), _asked(scope["path"])

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._seconds.labels(asked).observe(time.monotonic() - begun)
                self._requests.labels(asked, f"{message['status'] // 100}xx").inc()
            await send(message)

        await self._app(scope, receive, tell)

    def count_download(self, saved: int | None) -> None:
        """Count what a device fetches from its beginning: a delta that saves so many bytes, or (None) a full image."""
        self._downloads.labels("full" if saved is None else "delta").inc()
        self._saved.inc(saved or 0)


def _asked(path: str) -> str:
    if path.startswith("/api/"):
        return "api"
    return "ddi" if PLACE in path else "pages"
