"""Checks that a user can run and read: each a claim, a tick or a cross, and its numbers."""
