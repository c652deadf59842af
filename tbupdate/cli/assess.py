"""`tb-update health`: run the checks, and let a deployment on trial be kept or left by what they say."""

from __future__ import annotations

import click

from tbdiff.errors import Failed, NothingToDo, Rejected
from tbupdate import booting, config, health, journal, planning
from tbupdate.cli.conduct import carry_out, changing, now, restart, retain
from tbupdate.cli.options import Settings, everywhere, settings
from tbupdate.cli.sites import sound, working
from tbupdate.cli.terminal import print_json, print_lines, warn
from tbupdate.perform import perform
from tbupdate.site import Site


@click.command("health")
@click.option("--passed", "then", flag_value="passed", help="The boot is complete: commit what is on trial.")
@click.option("--failed", "then", flag_value="failed", help="It will never be: leave what is on trial, and reboot.")
@click.option("--ends", "then", flag_value="ends", help="A clean shutdown: what is on trial gets its try back.")
@click.option("--decide", "then", flag_value="decide", help="Run the checks; then as with --passed or --failed.")
@click.option("--watch", "then", flag_value="watch", help="Run the checks; leave what runs if a required one fails.")
@everywhere
def assess(then: str | None) -> None:
    """Run the checks in required.d and wanted.d, and say how they end; the options are for the units of the system."""
    said = settings()
    # One that cannot be read must not hold back who leaves what is on trial; with it, nothing could be updated.
    rules = sound(said) if then in ("failed", "ends", "decide") else config.load(said.config)
    unread = None if rules is not None else "the configuration cannot be read"
    rules = rules or config.Config()
    with working(said, rules) as site:
        if said.top is not None:
            raise Rejected(
                "checks are for the running system, and this is another one; nothing was changed",
                "Leave --top out, in the system that is to be checked.",
            )
        if then in (None, "decide", "watch"):
            results = _check(site, rules.health)
            why = unread or health.why_unhealthy(results)
            if then is None or (then == "watch" and why is None):
                _end(results, why, as_json=said.json)
                return
            if not said.json:
                print_lines(_lines(results))
            if then == "watch":
                _leave(str(why), site, said)
                return
            then = "passed" if why is None else "failed"
        # Another run that is in progress says nothing about this system's health.
        with changing(site, wait=True) as system:
            if system.trial is None:
                raise NothingToDo("nothing is on trial")
            if then == "ends":
                perform(booting.plan_give_back(system, now()), site, now())
                return
            if then == "passed":
                if not rules.health.commit:
                    raise NothingToDo(
                        f"{system.trial.id} waits for a person to commit it",
                        "Keep it with `tb-update commit`, or go back with `tb-update rollback`.",
                    )
                carry_out("commit", planning.plan_commit(system, now()), site, said)
                for warning in retain(site, rules):
                    warn(warning)
                return
            reason = unread or health.why_unhealthy(health.kept()) or "the boot was not completed"
            plan = planning.plan_rollback(system, None, now(), reason, journal.of_this_boot())
            carry_out("rollback", plan, site, said)
    restart(True)


def _check(site: Site, rules: config.Health) -> list[health.Result]:
    """Run all checks."""
    if site.survey().initialised:
        # What boot loader and hook did by themselves is written down now, not with the next deploy.
        with changing(site, wait=True) as system:
            health.tell_units(on_trial=system.trial is not None)
    results = health.run_checks(health.find_checks(), rules.limit, rules.attempts, rules.pause)
    health.keep(results)
    return results


def _leave(why: str, site: Site, said: Settings) -> None:
    """Go back also from what was committed long ago."""
    with changing(site, wait=True) as system:
        carry_out("rollback", planning.plan_leave(system, now(), why, journal.of_this_boot()), site, said)
    restart(True)


def _lines(results: list[health.Result]) -> list[str]:
    return [*(one.line for one in results), f"{len(results) or 'No'} check{'' if len(results) == 1 else 's'} ran."]


def _end(results: list[health.Result], why: str | None, *, as_json: bool) -> None:
    """Say how they ended; why the system is not well, if it is not."""
    if as_json:
        print_json({"healthy": why is None, "checks": health.fields(results)})
    else:
        print_lines(_lines(results))
    if why is not None:
        if as_json:
            click.get_current_context().exit(Failed.exit_code)
        raise Failed(why, "What is on trial is left when the boot cannot be completed; see: tb-update status")
