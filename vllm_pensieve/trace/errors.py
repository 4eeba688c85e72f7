"""The error that means: this trace cannot be used as it is."""

from __future__ import annotations

from vllm_pensieve.workloads.errors import UsageError


class TraceError(UsageError):
    """A trace that cannot be read, is empty, or is not what it was said to be."""
