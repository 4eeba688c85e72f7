"""Which files touch the process's environment, and why: settings are read in config.py alone."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "vllm_pensieve"
SETS_DEVICE = "hands it to what chooses a device, for servers that it starts"
PREPARES = "hands it to what prepares it for an engine of this process"
TOUCHING = {
    "config.py": "reads our settings, and where caches lie",
    "bench/options.py": SETS_DEVICE,
    "cli/collect.py": PREPARES,
    "cli/compare.py": "hands it on to servers, and records what of it they got",
    "cli/study.py": PREPARES,
    "cli/profile.py": PREPARES,
    "cli/serve.py": "hands it on to the server",
    "serving/engine.py": "prepares it for an engine of this process, and puts it back",
    "vllm_hooks/host.py": "sets how many cores vLLM reserves",
}


def touches_the_environment(path: Path) -> bool:
    """Whether a file names os.environ or os.getenv, under whichever name it imports them."""
    names = {"environ", "environb", "getenv", "putenv", "unsetenv"}
    return any(
        (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.ImportFrom) and any(one.name in names for one in node.names))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def test_no_file_touches_the_environment_without_a_reason():
    files = [path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(PACKAGE / "testing")]
    found = {str(path.relative_to(PACKAGE)) for path in files if touches_the_environment(path)}
    assert found == TOUCHING.keys()
