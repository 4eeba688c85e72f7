"""Attention over scattered KV blocks: a reference, ways to do the same, and their timing against dense attention."""
