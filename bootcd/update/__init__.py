"""The state machine of a host's updates, and its planner. No I/O."""
