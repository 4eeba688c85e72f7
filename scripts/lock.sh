#!/usr/bin/env bash
# Writes requirements/cpu.txt (what the package runs with) and requirements/dev.txt (and what its tests need)
# from pyproject.toml. Arguments go to `uv pip compile`, for instance --upgrade-package NAME.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/uv ] || { echo "lock: there is no .venv/bin/uv; run 'make setup' first" >&2; exit 1; }
torch=$(grep -o 'torch==[^"]*' pyproject.toml)
eval "$(.venv/bin/python scripts/setup_indexes.py "${torch#torch==}")"

lock() { # FILE OPTION...: pins for all supported Pythons on Linux, without what pyproject.toml overrides away
    local file=$1
    shift
    .venv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --extra cpu --extra datasets "$@" \
        --no-annotate --no-header --no-emit-index-url --no-emit-find-links --output-file "$file.new"
    {
        echo "# Written by scripts/lock.sh from pyproject.toml."
        grep -vE "^#|^-|sys_platform == '(never|win32|emscripten)'" "$file.new"
    } >"$file"
    rm "$file.new"
}

touch requirements/cpu.txt requirements/dev.txt
cp requirements/cpu.txt requirements/cpu.txt.new # uv keeps the pins it finds there where they still fit
lock requirements/cpu.txt --group setup "$@"
cp requirements/dev.txt requirements/dev.txt.new
lock requirements/dev.txt --group setup --extra dev --constraint requirements/cpu.txt "$@"
wc -l requirements/cpu.txt requirements/dev.txt
