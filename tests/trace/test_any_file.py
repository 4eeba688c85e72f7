"""Whatever a file holds, it is read or refused in a sentence: nothing else comes out of a reader."""

import gzip
import json
from pathlib import Path
from random import Random

import pytest

from tests.trace.traces import BAILIAN, MOONCAKE, PENSIEVE, kvct_session, write
from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.readers import read_trace

KVCT = [kvct_session("a", [[1, 3]], [[1, 4]]), kvct_session("b", [[1, 2]])]
KVCT[0]["requests"].append({"t": 1.5, "type": "subagent", "requests": KVCT[1]["requests"]})
EXAMPLES = {"mooncake": MOONCAKE, "bailian": BAILIAN, "pensieve": PENSIEVE, "kvct": KVCT}
STRANGE = [None, True, -1, 0, 2**40, 2**63, -(2**70), 1e308, 0.5, "", "x", "\ud800", [], [[]], {}]
STRANGE += [[1, 2], ["a", 1], [None], [1.5], [[1, 2**62]], {"t": 1}]


def damaged(random: Random, content: bytes) -> bytes:
    """A few bytes changed, cut out or doubled, or the end cut off."""
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(content) + 1)
        match random.randrange(4):
            case 0:
                content = content[:at] + bytes([random.randrange(256)]) + content[at + 1 :]
            case 1:
                content = content[:at] + content[at + random.randrange(1, 9) :]
            case 2:
                content = content[:at] + content[max(0, at - 20) :]
            case 3:
                content = content[:at]
    return content


def strange(random: Random, value):
    """A record in which one value is another one than it should be."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice(sorted(value))
        return value | {key: strange(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.8:
        at = random.randrange(len(value))
        return [*value[:at], strange(random, value[at]), *value[at + 1 :]]
    return random.choice(STRANGE)


def read_or_refuse(path: Path) -> None:
    """And what is read hangs together."""
    for options in ({}, {"strict": True}, {"block_tokens": 64}):
        try:
            trace = read_trace(path, **options)
        except TraceError:
            continue
        assert trace.accesses == trace.offsets[-1] == len(trace.blocks)
        assert trace.unique_blocks == len(set(trace.blocks.tolist()))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", EXAMPLES)
def test_damaged_bytes(tmp_path, name, indent, packed):
    random = Random(f"{name} {indent} {packed}")
    path = tmp_path / "trace.json"
    lines = [json.dumps(record, indent=indent) for record in EXAMPLES[name]]
    content = (lines[0] if indent else "\n".join(lines)).encode()
    for _ in range(60):
        path.write_bytes(damaged(random, gzip.compress(content) if packed else content))
        read_or_refuse(path)


@pytest.mark.parametrize("name", EXAMPLES)
def test_strange_values(tmp_path, name):
    random = Random(name)
    for _ in range(300):
        lines = [json.dumps(strange(random, record)) for record in EXAMPLES[name]]
        read_or_refuse(write(tmp_path / "trace.jsonl", [*lines, EXAMPLES[name][0]]))
