"""The gates of staging that ask for the age of a version: old enough, its turn here, no downgrade. No I/O."""

from __future__ import annotations

from datetime import timedelta

from bootcd.model.host import ImageStatus
from bootcd.model.job import ImageUpdate
from bootcd.policy.rollout import Turn, place, publication, turn
from bootcd.update.downgrade import newer_than
from bootcd.update.facts import Facts, Rules
from bootcd.update.gates import Gate


def minimum_age(facts: Facts, rules: Rules, update: ImageUpdate) -> Gate | None:
    aged = _turn(facts, rules, update).aged
    if aged <= facts.now:
        return None
    return Gate("minimum-age", "this version is younger than the minimum age", aged)


def rollout(facts: Facts, rules: Rules, update: ImageUpdate) -> Gate | None:
    found = _turn(facts, rules, update)
    if found.comes <= max(facts.now, found.aged):
        return None
    return Gate("rollout", "other machines take this version first", found.comes)


def downgrade(facts: Facts, rules: Rules, update: ImageUpdate) -> Gate | None:
    if (found := newer_than(update, facts.host.status)) is None:
        return None
    return Gate("downgrade", f"this version is older than the one that is {found[0]}")


def _turn(facts: Facts, rules: Rules, update: ImageUpdate) -> Turn:
    booted = _booted_image(facts)
    published = publication(
        update.created,
        first_seen=facts.first_seen or facts.now,
        replaces=booted.created if booted else None,
        now=facts.now,
    )
    return turn(
        rules.rollout,
        announced=timedelta(seconds=update.rollout_secs),
        published=published,
        place=place(facts.identity, update.digest, rules.rollout.wariness),
    )


def _booted_image(facts: Facts) -> ImageStatus | None:
    booted = facts.host.status.booted
    return booted.image if booted else None
