"""The comparison of two runs of vLLM's tests, and where their archive is looked up."""

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.packaging.scripts import ROOT, load

sources = load("vllm_conformance_sources")


def junit(path: Path, failed: set[str]) -> Path:
    """Results of the tests a, b and c of one file."""
    cases = "".join(
        f'<testcase classname="tests.t" name="{name}">{"<failure/>" if name in failed else ""}</testcase>'
        for name in "abc"
    )
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return path


def compare(stock: Path, ours: Path) -> subprocess.CompletedProcess[str]:
    report = ROOT / "scripts" / "vllm_conformance_report.py"
    return subprocess.run([sys.executable, report, stock, ours], capture_output=True, text=True)


def test_a_test_that_fails_on_both_sides_does_not_count(tmp_path: Path) -> None:
    done = compare(junit(tmp_path / "1", {"b"}), junit(tmp_path / "2", {"b"}))
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].split() == ["t", "2", "1", "2", "1", "0"]


def test_a_test_that_only_fails_with_ours_is_named_and_fails_the_comparison(tmp_path: Path) -> None:
    done = compare(junit(tmp_path / "1", {"b"}), junit(tmp_path / "2", {"b", "c"}))
    assert done.returncode == 1
    assert "tests.t::c (failed)" in done.stdout
    assert "tests.t::b" not in done.stdout


def test_the_archive_is_looked_up_on_every_index_of_pip(
    monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    monkeypatch.setattr(sources, "indexes", lambda: ["http://127.0.0.1:9/simple", index])
    assert sources.find("vllm-1.tar.gz") == f"{index}/files/vllm-1.tar.gz#sha256=ab"
    with pytest.raises(SystemExit, match=r"vllm-2\.tar\.gz is on none of pip's indexes"):
        sources.find("vllm-2.tar.gz")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index with one page, served from this machine."""
    page = tmp_path / "vllm" / "index.html"
    page.parent.mkdir()
    page.write_text('<a href="x/vllm-1.whl">1</a> <a href="../files/vllm-1.tar.gz#sha256=ab">2</a>')
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
