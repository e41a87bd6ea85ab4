"""The gates of staging that ask for the age of a version: old enough, its turn here, no downgrade. No I/O."""

from __future__ import annotations

from datetime import timedelta

from bootcd.model.host import ImageStatus
from bootcd.model.job import ImageUpdate
from bootcd.policy.rollout import Turn, place, publication, turn
from bootcd.update.downgrade import older
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
    for role, image in (("staged", _image(facts, "staged")), ("booted", _image(facts, "booted"))):
        if image and is_downgrade(update, image):
            return Gate("downgrade", f"this version is older than the one that is {role}")
    return None


def is_downgrade(update: ImageUpdate, image: ImageStatus) -> bool:
    """Whether `update` is an older version of the same image, by the same tag."""
    followed = image.image
    return (followed.transport, followed.image) == (update.transport, update.image) and older(
        update.version, update.created, than_version=image.version or "", than_created=image.created
    )


def _turn(facts: Facts, rules: Rules, update: ImageUpdate) -> Turn:
    booted = _image(facts, "booted")
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


def _image(facts: Facts, role: str) -> ImageStatus | None:
    entry = getattr(facts.host.status, role)
    return entry.image if entry else None
