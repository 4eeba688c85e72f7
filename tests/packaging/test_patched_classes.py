"""vLLM's classes and modules are changed in one room."""

import ast
from pathlib import Path

from tests.packaging.scripts import ROOT

PACKAGE = ROOT / "vllm_pensieve"
ROOM = PACKAGE / "vllm_hooks"
LAUNCHER = "server_process.py"
"""Starts vLLM's server, and nothing else, in a process of its own; it words what the parser refuses."""


def patched(path: Path) -> set[str]:
    """What a file assigns to attributes of names that it imports from vLLM, or deletes of them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    theirs = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
        if (node.module if isinstance(node, ast.ImportFrom) else alias.name or "").split(".")[0]
        == "vllm"
    }
    found = set()
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("setattr", "delattr"):
            targets = [ast.Attribute(node.args[0], "?")]
        for target in targets:
            root = target
            while isinstance(root, ast.Attribute):
                root = root.value
            if target is not root and isinstance(root, ast.Name) and root.id in theirs:
                found.add(root.id)
    return found


def test_no_other_file_changes_vllm():
    files = [path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(ROOM)]
    files = [path for path in files if not path.is_relative_to(PACKAGE / "testing")]
    found = {str(path.relative_to(PACKAGE)) for path in files if patched(path)}
    assert found == {LAUNCHER}


def test_the_room_does_change_it_and_is_seen_to():
    assert "EngineCore" in patched(ROOM / "patches.py") & patched(ROOM / "stopping.py")
