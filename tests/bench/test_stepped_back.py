"""How a comparison learns that the plugin, which it is about, was not at work."""

from vllm_pensieve.bench.compare import why_stepped_back

LINE = (
    "(EngineCore pid=7) INFO 11-25 17:32:18 [scheduler.py:75] Pensieve: plain prefixes in vLLM's own order{}, "
    "because layers with a sliding window keep other tokens"
)


def test_the_reason_stands_in_the_servers_log(tmp_path):
    log = tmp_path / "pensieve.log"
    for addition in ("", " and no trace"):
        log.write_text(f"before\n{LINE.format(addition)}\nafter\n")
        assert why_stepped_back(log) == "layers with a sliding window keep other tokens"


def test_without_a_reason_the_log_is_named(tmp_path):
    log = tmp_path / "pensieve.log"
    log.write_text("nothing of it\n")
    assert why_stepped_back(log) == f"its counters are missing from /metrics; see {log}"
