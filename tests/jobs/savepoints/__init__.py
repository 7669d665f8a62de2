"""Savepoints of an earlier version, kept; `python -m tests.jobs.savepoints` makes them anew."""
