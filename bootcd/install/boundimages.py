"""The images bound to an image that is to be installed, read while the disk is still as it was.

Of a link that leads elsewhere than where quadlets are kept the survey knows no file: the import, which
looks at all of them once more, is the judge of it.
"""

from __future__ import annotations

import posixpath

from bootcd.install.settings import MAX_FILE_BYTES
from bootcd.install.survey import BOUND_IMAGES, Survey
from bootcd.ostree.boundimages import MAX_IMAGES
from bootcd.ostreefmt.boundimages import invalid, parse_bound_image

_MAX_LINKS = 40


def require_bound_images(survey: Survey) -> bool:
    """Refuse an image with a bound image that could not be pulled; tell whether it has any.

    Raises NotBootable.
    """
    places = survey.below(BOUND_IMAGES)
    if len(places) > MAX_IMAGES:
        raise invalid("", f"has more than {MAX_IMAGES} entries")
    for place in places:
        name = posixpath.basename(place)
        if survey.files[place] is not None:
            raise invalid(name, "is not a symbolic link")
        content = _content(survey, place)
        if content is None:
            continue
        if len(content) > MAX_FILE_BYTES:
            raise invalid(name, f"leads to no regular file of at most {MAX_FILE_BYTES >> 10} KiB")
        parse_bound_image(name, content)
    return bool(places)


def _content(survey: Survey, path: str) -> bytes | None:
    """Return the content of the file a link leads to, None if it is not known."""
    for _ in range(_MAX_LINKS):
        if (target := survey.links.get(path)) is None:
            return survey.files.get(path)
        path = posixpath.normpath(posixpath.join("/", posixpath.dirname(path), target)).lstrip("/")
        # A layer has /etc by either name.
        other = path.removeprefix("usr/") if path.startswith("usr/etc/") else f"usr/{path}"
        if path not in survey.files and other in survey.files:
            path = other
    return None
