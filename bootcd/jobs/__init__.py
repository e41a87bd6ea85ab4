"""Jobs: their records on disk, their worker processes, their life."""
