"""A person steers a fleet in a browser: from the first login to a bad release that is taken back."""

from __future__ import annotations

import re
from collections.abc import Sequence

from playwright.sync_api import Page, expect

from tests.browser.conftest import Site

PASSWORD = "a password of some length"
PLACES = (
    "/",
    "/devices",
    "/devices/1",
    "/groups",
    "/groups/1",
    "/releases",
    "/releases/1",
    "/rollouts",
    "/rollouts/new",
    "/audit",
    "/users",
    "/tokens",
)


def log_in(site: Site) -> None:
    """By keyboard alone."""
    site.open("/devices")
    keys = site.page.keyboard
    expect(site.page.get_by_label("Name")).to_be_focused()
    keys.type("admin")
    keys.press("Tab")
    keys.type(site.first_password)
    keys.press("Enter")
    expect(site.page.get_by_role("heading", name="Choose a password")).to_be_visible()
    for text in (site.first_password, PASSWORD, PASSWORD):
        keys.type(text)
        keys.press("Tab")
    keys.press("Enter")
    expect(site.page.get_by_role("heading", name="Overview")).to_be_visible()


def upload(site: Site, version: str, base: str | None = None) -> None:
    """Choose a file, and see what became of it."""
    site.open("/releases")
    site.page.get_by_label("Image").set_input_files(site.works.image(version, base))
    site.page.get_by_role("button", name="Upload").click()


def gather(site: Site, name: str, devices: Sequence[str]) -> None:
    """Make a group by keyboard alone, and put devices in."""
    site.open("/groups")
    site.page.get_by_label("Name").focus()
    site.page.keyboard.type(name)
    site.page.keyboard.press("Enter")
    expect(site.page.get_by_role("heading", level=1, name=name)).to_be_visible()
    site.page.get_by_label("Ids of devices").focus()
    site.page.keyboard.type(" ".join(devices))
    site.page.keyboard.press("Tab")
    site.page.keyboard.press("Enter")
    for device in devices:
        expect(site.page.get_by_role("button", name=f"Take out {device}")).to_be_visible()


def badge(page: Page, state: str) -> None:
    expect(page.locator("h1 .badge")).to_have_text(state)


def test_from_the_first_login_to_a_release_that_is_taken_back(site: Site) -> None:
    page = site.page
    log_in(site)

    site.open("/releases")
    expect(page.get_by_text("First an admin has to trust a key")).to_be_visible()
    page.get_by_label("Name").fill("build host")
    page.get_by_label("Public key (PEM)").fill(site.works.pem("release"))
    page.get_by_role("button", name="Trust it").click()
    expect(page.get_by_text("answers for releases", exact=True)).to_be_visible()
    for version, base in (("1.0", None), ("2.0", "1.0")):
        upload(site, version, base)
        expect(page.get_by_role("heading", level=1, name=version)).to_be_visible()
    site.open("/releases")
    page.get_by_label("Image").set_input_files({"name": "x.tbdiff", "mimeType": "", "buffer": b"no image" * 1000})
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#upload [role=status]")).to_contain_text("It was not taken")
    # The answer that refuses is one of the complaints of a browser; it is the only one here.
    assert len(site.complaints) == 1
    site.complaints.clear()

    site.devices.register(12, ("1.0",))
    gather(site, "first ones", ("kiosk-0001", "gateway-0002"))
    page.get_by_role("link", name="Plan a rollout to these").click()
    page.get_by_role("button", name="Which devices?").click()
    expect(page.get_by_text("2 devices now")).to_be_visible()
    site.open("/rollouts/new")
    page.get_by_label("Release").select_option(label="2.0 (demo)")
    page.get_by_label("Name").fill("to 2.0")
    page.get_by_label("Phases").fill("9, rest")
    page.get_by_label("Then").select_option("stop")
    page.get_by_role("button", name="Which devices?").click()
    expect(page.get_by_text("12 devices now")).to_be_visible()
    page.get_by_role("button", name="Start").click()
    badge(page, "preparing")

    # From here on the page tells by itself what is new.
    site.go_on()
    badge(page, "running")
    page.get_by_role("button", name="Pause").click()
    badge(page, "paused")
    page.get_by_role("button", name="Go on").click()
    badge(page, "running")
    site.go_on(2)
    badge(page, "stopped")
    expect(page.locator("[data-said]")).to_contain_text(re.compile(r"\d of 9 devices failed: more than 5 %"))
    expect(page.locator(".phases li").nth(1)).to_contain_text("3 waiting")

    page.get_by_role("navigation", name="Devices by how they stand").get_by_role("link", name="failed").click()
    page.get_by_role("region", name="Devices").locator(".rows a").first.click()
    expect(page.locator("pre")).to_contain_text("check app: failed with exit code 1")
    badge(page, "failed")

    site.open("/rollouts/1")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Roll the fleet back").click()
    badge(page, "stopped")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Roll the fleet back").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("back from to 2.0")
    site.go_on(4)
    badge(page, "finished")
    page.get_by_role("link", name="this rollout").click()
    expect(page.get_by_role("link", name="taken back")).to_be_visible()
    expect(page.get_by_role("button", name="Roll the fleet back")).to_have_count(0)
    site.open("/")
    expect(page.get_by_role("region", name="What devices run")).to_contain_text(re.compile(r"1\.0\s+12 100 %"))
    site.open("/audit")
    for what in ("key.trust", "artifact.upload", "rollout.create", "rollout.pause", "rollout.stopped", "rollout.undo"):
        expect(page.get_by_role("cell", name=what).first).to_be_visible()

    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 740})
    for place in (*PLACES, "/rollouts/1"):
        site.open(place)
        site.check()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.locator(".account summary").click()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
