"""Trace files for tests: a few lines of each format, written where a test wants them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

MOONCAKE = [
    {"timestamp": 1000, "input_length": 1030, "output_length": 7, "hash_ids": [10, 20, 30]},
    {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [10, 40]},
]
BAILIAN = [
    {"chat_id": 7, "parent_chat_id": -1, "timestamp": 0.5, "input_length": 33, "output_length": 1}
    | {"type": "text", "turn": 1, "hash_ids": [5, 6, 7]},
    {"chat_id": 8, "parent_chat_id": 7, "timestamp": 2.5, "input_length": 50, "output_length": 2}
    | {"type": "search", "turn": 2, "hash_ids": [5, 6, 8, 9]},
    {"chat_id": 9, "parent_chat_id": -1, "timestamp": 3.0, "input_length": 16, "output_length": 3}
    | {"type": "text", "turn": 1, "hash_ids": [5]},
]
PENSIEVE = [
    {"schema": 1, "request_id": "a", "session_id": "s", "turn": 1, "workload": "qa"}
    | {"timestamp": 0, "input_length": 70, "output_length": 3, "hash_ids": [1, 2]},
    {"schema": 1, "request_id": "b", "session_id": None, "turn": 1, "workload": "chat"}
    | {"timestamp": 10, "input_length": 40, "output_length": 4, "hash_ids": [1]},
]


def kvct_session(name: str, *runs_of_requests: list[list[int]], **more: Any) -> dict[str, Any]:
    """A session with 64-token blocks and one request every 10 s."""
    requests = [
        {"t": 10.0 * i, "type": "n", "out": 2, "hash_runs": runs}
        | {"in": 64 * sum(last - first + 1 for first, last in runs) + 7}
        for i, runs in enumerate(runs_of_requests)
    ]
    return {"id": name, "block_size": 64, "requests": requests} | more


def main_agents(path: Path, folder: Path) -> Path:
    """The sessions of a file without their sub-agents, as a new file in the folder."""
    sessions = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    for session in sessions:
        session["requests"] = [r for r in session["requests"] if r["type"] != "subagent"]
    return write(folder / "main.jsonl", sessions)


def write(path: Path, records: list[Any]) -> Path:
    """One record a line, strings as they are; gzipped if the name ends so."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path
