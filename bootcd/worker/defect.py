"""What is told of a defect of ours: that there is one, and where the details are."""

from __future__ import annotations

from bootcd.model.errors import InternalError


def defect() -> InternalError:
    return InternalError("internal error in the worker", hint="its log in the journal has the details")
