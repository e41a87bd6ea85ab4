"""What holds for every unit test: product code never blocks the event loop."""

from tests.support.blocking import no_blocking_calls as no_blocking_calls
