"""Machines that live for years within minutes: the real planner over random facts, clock jumps and DST."""
