#!/usr/bin/env bash
# The same five questions to both modes, one after the other: stateless vLLM, then the plugin.
#
#   scripts/test_comparison.sh [--model MODEL] [other options of the chat, such as -- --dtype float32]
#
# At a terminal the questions are yours to type; from a pipe, or with nothing to read, they are typed for you.
set -euo pipefail

PYTHON=${PYTHON:-$(dirname "$0")/../.venv/bin/python}
[ -x "$PYTHON" ] || PYTHON=python

QUESTIONS=(
    "What is machine learning?"
    "Give me an example of machine learning in real world."
    "How does deep learning differ from traditional ML?"
    "Can you explain neural networks?"
    "What applications use neural networks?"
)

echo "Questions for both modes:"
for i in "${!QUESTIONS[@]}"; do
    echo "  $((i + 1)). ${QUESTIONS[$i]}"
done
echo "  then: stats, exit"

if [ -t 0 ]; then
    typed=""
else
    typed=$(cat)
    [ -n "$typed" ] || typed=$(printf '%s\n' "${QUESTIONS[@]}" stats exit)
fi

talk() { # mode
    if [ -t 0 ]; then
        "$PYTHON" -m vllm_pensieve --mode "$1" --interactive --max-new-tokens 64 "${@:2}"
    else
        printf '%s\n' "$typed" |
            "$PYTHON" -m vllm_pensieve --mode "$1" --interactive --max-new-tokens 64 "${@:2}"
    fi
}

echo
echo "TEST 1: vLLM BASELINE (stateless): every turn computes the whole conversation again"
talk vllm "$@"
echo
echo "TEST 2: PENSIEVE (stateful): every turn computes what is new"
talk pensieve "$@"
echo
echo "Compare the lines \"TTFT by turn\" and \"Speedup by turn\" of both."
