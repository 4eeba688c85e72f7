"""The host tier's data: how blocks lie in memory, host memory for their copies, and the copying itself."""
