"""Decisions in time: facts, plan, job, event, new state. Knows no transport."""
