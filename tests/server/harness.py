"""A server in this process, and people who ask it things."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from starlette.testclient import TestClient

from tbserver import accounts
from tbserver.accounts import Caller, Role
from tbserver.app import create_app
from tbserver.records import Account, Tenant
from tbserver.server import Server, open_server
from tbserver.settings import Settings

URL = "https://fleet.example"


@dataclass
class Fleet:
    """A server, and ways to ask it."""

    server: Server
    web: TestClient
    password: str

    def tenant(self, name: str) -> int:
        """Another tenant."""
        with self.server.database.writing() as session:
            tenant = Tenant(name=name, created=0)
            session.add(tenant)
            session.flush()
            return tenant.id

    def person(self, role: Role, tenant_id: int = 1, name: str = "") -> Person:
        """Somebody with this role, who asks by an API token."""
        with self.server.database.writing() as session:
            account = Account(
                tenant_id=tenant_id,
                name=name or f"{role.word}-{tenant_id}",
                password="never",
                role=role.word,
                must_change=False,
                created=0,
            )
            session.add(account)
            session.flush()
            caller = Caller(tenant_id, "", account.id, account.name, role)
            _, secret = accounts.create_token(session, caller, "test", role, None)
        return Person(self, secret, account.id)

    def browser(self) -> TestClient:
        """A browser of its own: with cookies, without a token."""
        return TestClient(self.web.app, base_url=URL, headers={"Origin": URL}, raise_server_exceptions=False)


@dataclass
class Person:
    """Somebody who asks by an API token."""

    fleet: Fleet
    secret: str
    id: int

    def ask(self, method: str, path: str, **said: Any) -> httpx2.Response:
        """The answer to a request."""
        headers = {"Authorization": f"Bearer {self.secret}"} | said.pop("headers", {})
        path = path if path.startswith("/api/") else f"/api/v1{path}"
        return self.fleet.web.request(method, path, headers=headers, **said)

    def open(self, method: str, path: str, **said: Any) -> httpx2.Response:
        """The page that a browser would get."""
        headers = {"Authorization": f"Bearer {self.secret}", "Accept": "text/html"}
        return self.fleet.web.request(method, path, headers=headers, follow_redirects=False, **said)

    def get(self, path: str, **said: Any) -> Any:
        """What is there."""
        return self._done("GET", path, **said)

    def post(self, path: str, **body: Any) -> Any:
        """What comes of a request that succeeds."""
        return self._done("POST", path, json=body)

    def _done(self, method: str, path: str, **said: Any) -> Any:
        answer = self.ask(method, path, **said)
        assert answer.is_success, (answer.status_code, answer.text)
        return answer.json() if answer.content else None


@contextmanager
def fleet(data: Path, database_url: str, *, is_new: bool = True, **more: Any) -> Iterator[Fleet]:
    """A server in this process."""
    server, password = open_server(Settings(data=data, database=database_url, **more))
    assert (password is not None) == is_new
    try:
        web = TestClient(create_app(server), base_url=URL, raise_server_exceptions=True)
        yield Fleet(server, web, password or "")
    finally:
        server.database.close()
