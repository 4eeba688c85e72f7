#!/usr/bin/env bash
# Runs vLLM's own scheduler tests twice, with vLLM's scheduler and with ours in its place, and compares test by test.
# Fails if a test passes with vLLM's scheduler and not with ours. Takes a minute or two.
# Arguments are files under vLLM's tests/ folder; without any, the four that this project answers for.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts=$PWD/scripts
python=$PWD/.venv/bin/python
[ -x "$python" ] || { echo "conformance: there is no .venv; run 'make setup-dev' first" >&2; exit 1; }
if [ $# -eq 0 ]; then
    set -- v1/core/test_scheduler.py v1/core/test_async_scheduler.py \
        v1/core/test_prefix_caching.py v1/core/test_deferred_block_free.py
fi

sources=$("$python" "$scripts/vllm_conformance_sources.py")
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_PLUGINS= PYTHONPATH=$scripts

run() { # vllm|pensieve: writes $results/SIDE.xml
    local side=$1 log=$results/$1.log
    echo "conformance: vLLM's tests with the scheduler of $side"
    # Failing tests are expected (some need models from a hub); a run that did not happen leaves no results.
    (
        cd "$sources"
        CONFORMANCE_SCHEDULERS=$side "$python" -m pytest -q -p no:cacheprovider -p vllm_conformance_plugin \
            --junit-xml="$results/$side.xml" "${files[@]}" >"$log" 2>&1
    ) || true
    [ -s "$results/$side.xml" ] || { tail -40 "$log" >&2; echo "conformance: pytest did not run" >&2; exit 1; }
}

files=("${@/#/tests/}")
run vllm
run pensieve
"$python" "$scripts/vllm_conformance_report.py" "$results/vllm.xml" "$results/pensieve.xml"
