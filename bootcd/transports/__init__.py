"""Images on local media and in other programs' stores: every transport but the registry."""
