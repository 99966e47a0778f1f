"""Damaged files of every kind for every reader: ``python -m tests.fuzz.worker --help``."""
