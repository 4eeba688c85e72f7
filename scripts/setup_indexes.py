"""Where packages come from: pip's own settings, said once more in uv's words.

As a program it prints `export` lines for a shell, with the index that the given version of torch needs.
"""

from __future__ import annotations

import ast
import shlex
import subprocess
import sys

PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

# pip's option -> (uv's variable, separator of its values)
UV_NAMES = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "no-index": ("UV_NO_INDEX", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "proxy": ("ALL_PROXY", " "),
}


def uv_environment(pip_config: str) -> dict[str, str]:
    """uv's variables for what `pip config list` printed; a variable of the environment beats a file's line."""
    # One index is as good as another for pip: the newest version wins wherever it is.
    result = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    in_order = sorted(pip_config.splitlines(), key=lambda line: line.startswith(":env:"))
    for line in in_order:
        section_and_option, _, value = line.partition("=")
        _, _, option = section_and_option.rpartition(".")
        if option in UV_NAMES:
            name, separator = UV_NAMES[option]
            result[name] = separator.join(str(ast.literal_eval(value)).split())
    return result


def run_pip(python: str, *arguments: str) -> str:
    """What `python -m pip ARGUMENTS` prints; empty if it fails."""
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout


def torch_index(python: str, version: str) -> list[str]:
    """The index to name for this build of torch: none if pip finds it by itself, else PyTorch's own."""
    found = run_pip(python, "index", "versions", "torch").replace(",", " ").split()
    return [] if version in found else [PYTORCH_CPU_INDEX]


def main() -> None:
    environment = uv_environment(run_pip(sys.executable, "config", "list"))
    for url in torch_index(sys.executable, sys.argv[1]):
        environment["UV_INDEX"] = f"{environment.get('UV_INDEX', '')} {url}".strip()
    for name, value in sorted(environment.items()):
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
