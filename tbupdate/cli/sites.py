"""Where a command works: the top level and the boot chooser, as options and configuration say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tbdiff.errors import Failed, Rejected
from tbupdate import config, mounts
from tbupdate.boot import kernelsets
from tbupdate.boot.chooser import was_chosen
from tbupdate.boot.finder import AUTO, find_chooser
from tbupdate.cli.options import Settings
from tbupdate.cli.terminal import warn
from tbupdate.config import Config
from tbupdate.site import Site


@contextmanager
def working(said: Settings, rules: Config | None = None) -> Iterator[Site]:
    """The site of a command. One that needs no rules works also where the configuration cannot be read."""
    rules = rules or readable(said)
    boot = rules.boot
    with mounts.top_level(said.top) as top:
        chooser = find_chooser(boot.chooser, said.boot, running=said.top is None)
        yield Site(top, chooser=chooser, options=boot.options, tries=boot.tries, local=rules.local.policy)


def require_chooser(site: Site, rules: Config, *, running: bool) -> None:
    """Refuse to deploy without the boot loader that the configuration names, or that knew of us."""
    if site.chooser is None or site.chooser.choice() is not None:
        return
    # Entries or kernels without a choice are what somebody has left of it.
    left = site.chooser.entries() or kernelsets.loose(site.chooser.directory, ())
    if rules.boot.chooser != AUTO or left or (running and was_chosen()):
        raise Rejected(
            f"{site.chooser.name} does not know of tb-update; nothing was changed", "Set it up with: tb-update init"
        )


def readable(said: Settings) -> Config:
    """The configuration, or the defaults where it cannot be read, for whoever looks, or goes back."""
    return sound(said) or Config()


def sound(said: Settings) -> Config | None:
    """The same, but None where it cannot be read: what would follow from the defaults may not be what is wanted."""
    try:
        return config.load(said.config)
    except Failed as failure:
        # They must not be stopped by a typo.
        warn(f"{failure}; going on without it")
        return None
