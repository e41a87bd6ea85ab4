"""What holds for every unit test: product code never blocks the event loop, and no property has a deadline.

How long an example of a property takes says more of the machine than of the code; a test
as a whole has a limit.
"""

from hypothesis import settings

from tests.support.blocking import no_blocking_calls as no_blocking_calls

settings.register_profile("bootcd", deadline=None)
settings.load_profile("bootcd")
