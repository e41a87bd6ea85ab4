"""When and how often: intervals, jitter, back-off. No I/O."""
