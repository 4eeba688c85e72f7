"""Makes .venv ready: `python3 scripts/setup_env.py` for the package, with `--dev` for its tests too.

Written so that any Python from 3.6 on can read it: one that is too old gets an answer, not a syntax
error. The work is in setup_steps.py.
"""

import os
import shutil
import subprocess
import sys

OLDEST_MINOR = 11
NEWEST_MINOR = 14


def python_problem(major: int, minor: int, name: str) -> str:
    """Why vLLM cannot be installed for this Python; empty if it can."""
    if major == 3 and OLDEST_MINOR <= minor <= NEWEST_MINOR:
        return ""
    problem = (
        f"vLLM needs Python 3.{OLDEST_MINOR} to 3.{NEWEST_MINOR}; {name} is Python {major}.{minor}."
    )
    names = [f"python3.{minor}" for minor in range(NEWEST_MINOR, OLDEST_MINOR - 1, -1)]
    there = [name for name in names if starts(name)]
    if there:
        return f"{problem} Use another one that is here: make PYTHON={there[0]} ..."
    return f"{problem} Install one of these, then: make PYTHON=python3.12 ..."


def starts(name: str) -> bool:
    """Whether this command runs: version managers leave commands that only print an error."""
    if shutil.which(name) is None:
        return False
    with open(os.devnull, "w") as nowhere:
        return subprocess.call([name, "-c", ""], stdout=nowhere, stderr=nowhere) == 0


if __name__ == "__main__":
    problem = python_problem(sys.version_info[0], sys.version_info[1], sys.executable)
    if problem:
        sys.exit("setup: " + problem)
    import setup_steps

    setup_steps.main()
