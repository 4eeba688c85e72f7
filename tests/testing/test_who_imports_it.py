"""What tests and scripts share is used by them alone, and needs nothing that only the tests have."""

import ast
from collections.abc import Iterable
from pathlib import Path

from tests.packaging.scripts import ROOT

PACKAGE = ROOT / "vllm_pensieve"
SHARED = PACKAGE / "testing"


def imported(path: Path) -> set[str]:
    """Every name that a file imports, at any depth, with the module it is imported from."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def importers(files: Iterable[Path], *modules: str) -> set[str]:
    """Those of the files that import one of the modules or something in them."""
    return {
        str(path.relative_to(ROOT))
        for path in files
        if any(f"{name}.".startswith(f"{m}.") for name in imported(path) for m in modules)
    }


def python_files(folder: Path) -> set[Path]:
    return set(folder.rglob("*.py"))


def test_nothing_that_serves_a_user_imports_it():
    production = python_files(PACKAGE) - python_files(SHARED)
    assert importers(production, "vllm_pensieve.testing") == set()


def test_no_script_imports_the_tests_and_some_import_what_is_shared():
    scripts = python_files(ROOT / "scripts") | python_files(ROOT / "tools")
    assert importers(scripts, "tests") == set()
    assert "scripts/exactness.py" in importers(scripts, "vllm_pensieve.testing")


def test_it_needs_neither_the_tests_nor_pytest():
    assert importers(python_files(SHARED), "tests", "pytest", "hypothesis") == set()
