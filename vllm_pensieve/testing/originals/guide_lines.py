"""Every command of the Pensieve guide that runs its program: the two guides, and the implementation summary."""

from __future__ import annotations

from vllm_pensieve.testing.originals.lines import Line

GUIDE_LINES = (
    Line(
        "guide-setup.md:21",
        "python main.py --mode pensieve --model gpt2 --gpu-cache 2 --cpu-cache 4",
    ),
    Line(
        "guide-setup.md:26",
        "python main.py --mode compare --model gpt2 --gpu-cache 2 --cpu-cache 4",
    ),
    Line(
        "guide-setup.md:33",
        "python main.py --mode compare --model gpt2 --num-concurrent-users 6 --request-interval 0.5 --gpu-cache 4 --cpu-cache 8",
    ),
    Line(
        "guide-setup.md:38",
        "python main.py --mode compare --model meta-llama/Meta-Llama-3-8B --num-concurrent-users 6 --request-interval 0.5 --gpu-cache 40 --cpu-cache 100",
    ),
    Line(
        "guide-setup.md:45",
        "python main.py --mode compare --model gpt2 --num-concurrent-users 9 --request-interval 0.3 --gpu-cache 4 --cpu-cache 8",
    ),
    Line("guide-setup.md:50", "python main.py --mode pensieve --model gpt2 --interactive"),
    Line(
        "guide-setup.md:112",
        "python main.py --mode compare --model gpt2 --num-concurrent-users 4 --gpu-cache 4 --cpu-cache 8",
    ),
    Line(
        "guide-execution.txt:96", "python main.py --mode pensieve --model gpt2 --max-new-tokens 32"
    ),
    Line("guide-execution.txt:106", "python main.py --mode vllm --model gpt2 --max-new-tokens 32"),
    Line(
        "guide-execution.txt:115", "python main.py --mode compare --model gpt2 --max-new-tokens 32"
    ),
    Line(
        "guide-execution.txt:129",
        "python main.py --mode pensieve --model gpt2 --interactive --max-new-tokens 20",
    ),
    Line(
        "guide-execution.txt:145",
        "python main.py --mode vllm --model gpt2 --interactive --max-new-tokens 20",
    ),
    Line(
        "guide-execution.txt:156",
        "python main.py --mode pensieve --model facebook/opt-125m --gpu-cache 40 --max-new-tokens 32",
    ),
    Line(
        "guide-execution.txt:161",
        "python main.py --mode pensieve --model facebook/opt-350m --gpu-cache 40 --max-new-tokens 32",
    ),
    Line(
        "guide-execution.txt:169",
        r"""python main.py \
  --mode pensieve \
  --model gpt2 \
  --gpu-cache 20 \
  --cpu-cache 50 \
  --max-new-tokens 32""",
    ),
    Line(
        "guide-execution.txt:178",
        r"""python main.py \
  --mode pensieve \
  --model gpt2 \
  --gpu-cache 2 \
  --cpu-cache 10 \
  --max-new-tokens 32""",
    ),
    Line(
        "guide-execution.txt:193", "python main.py --mode pensieve --model gpt2 --max-new-tokens 10"
    ),
    Line(
        "guide-execution.txt:197", "python main.py --mode compare --model gpt2 --max-new-tokens 20"
    ),
    Line(
        "guide-execution.txt:213",
        "python -u main.py --mode pensieve --model gpt2 2>&1 | tee pensieve_output.log",
    ),
    Line(
        "guide-execution.txt:216",
        "python -m cProfile -s cumulative -o pensieve.prof main.py --mode pensieve --model gpt2",
    ),
    Line(
        "guide-execution.txt:230",
        "python main.py --mode pensieve --model $model --max-new-tokens 20 > results/pensieve_${model//\\//_}.txt 2>&1",
    ),
    Line(
        "guide-execution.txt:237",
        "python main.py --mode vllm --model $model --max-new-tokens 20 > results/vllm_${model//\\//_}.txt 2>&1",
    ),
    Line("guide-execution.txt:309", "python main.py --mode pensieve --device cpu --model gpt2"),
    Line(
        "guide-execution.txt:313",
        "python main.py --mode pensieve --gpu-cache 5 --cpu-cache 20 --model gpt2",
    ),
    Line(
        "guide-execution.txt:328",
        r"""nohup python main.py \
  --mode pensieve \
  --model facebook/opt-350m \
  --gpu-cache 40 \
  --cpu-cache 100 \
  --max-new-tokens 128 \
  > pensieve_server.log 2>&1 &""",
    ),
    Line(
        "guide-execution.txt:357",
        "python main.py --mode compare --model gpt2 2>&1 | tee test_report.txt",
    ),
    Line("guide-execution.txt:390", "python main.py --mode compare --model gpt2"),
    Line("guide-execution.txt:393", "python main.py --mode pensieve --interactive --model gpt2"),
    Line(
        "guide-execution.txt:396", "python main.py --mode compare --model gpt2 --max-new-tokens 50"
    ),
    Line(
        "guide-execution.txt:399",
        "python main.py --mode pensieve --model facebook/opt-125m --max-new-tokens 32",
    ),
    Line("guide-execution.txt:462", "python main.py --mode pensieve --model gpt2"),
    Line("guide-execution.txt:465", "python main.py --mode vllm --model gpt2"),
    Line("guide-execution.txt:468", "python main.py --mode compare --model gpt2"),
    Line("guide-execution.txt:471", "python main.py --mode pensieve --interactive --model gpt2"),
    Line(
        "guide-execution.txt:474",
        "python -m cProfile -s cumulative main.py --mode pensieve --model gpt2",
    ),
    Line(
        "guide-execution.txt:530",
        r"""python main.py \
  --mode vllm \
  --model meta-llama/Meta-Llama-3-8B \
  --interactive \
  --max-new-tokens 64""",
    ),
    Line(
        "guide-execution.txt:565",
        r"""python main.py \
  --mode pensieve \
  --model meta-llama/Meta-Llama-3-8B \
  --interactive \
  --max-new-tokens 64 \
  --gpu-cache 40 \
  --cpu-cache 100""",
    ),
    Line(
        "guide-execution.txt:648",
        r"""python main.py \
  --mode vllm \
  --model meta-llama/Meta-Llama-3-8B \
  --interactive \
  --max-new-tokens 64""",
    ),
    Line(
        "guide-execution.txt:675",
        r"""python main.py \
  --mode pensieve \
  --model meta-llama/Meta-Llama-3-8B \
  --interactive \
  --max-new-tokens 64 \
  --gpu-cache 40 \
  --cpu-cache 100""",
    ),
    Line(
        "guide-execution.txt:704",
        "python main.py --mode vllm --model meta-llama/Meta-Llama-3-8B --interactive --max-new-tokens 64",
    ),
    Line(
        "guide-execution.txt:708",
        "python main.py --mode pensieve --model meta-llama/Meta-Llama-3-8B --interactive --max-new-tokens 64 --gpu-cache 40 --cpu-cache 100",
    ),
    Line(
        "guide-execution.txt:761",
        r"""python main.py --mode pensieve --model meta-llama/Meta-Llama-3-8B --interactive \
  --gpu-cache 80 --cpu-cache 50 --max-new-tokens 64""",
    ),
    Line(
        "guide-execution.txt:767",
        r"""python main.py --mode pensieve --model meta-llama/Meta-Llama-3-8B --interactive \
  --gpu-cache 2 --cpu-cache 20 --max-new-tokens 64""",
    ),
    Line(
        "guide-execution.txt:774",
        r"""python main.py --mode pensieve --model meta-llama/Meta-Llama-3-8B --interactive \
  --gpu-cache 1 --cpu-cache 5 --max-new-tokens 64""",
    ),
    Line(
        "guide-execution.txt:785",
        r"""python -u main.py \
  --mode pensieve \
  --model meta-llama/Meta-Llama-3-8B \
  --interactive \
  --max-new-tokens 64 \
  --gpu-cache 40 \
  --cpu-cache 100 \
  2>&1 | tee pensieve_interactive.log""",
    ),
    Line(
        "guide-execution.txt:798",
        r"""python -u main.py \
  --mode vllm \
  --model meta-llama/Meta-Llama-3-8B \
  --interactive \
  --max-new-tokens 64 \
  2>&1 | tee vllm_interactive.log""",
    ),
    Line(
        "guide-execution.txt:1301",
        r"""python main.py --mode compare --model gpt2 \
  --num-concurrent-users 6 \
  --request-interval 0.5 \
  --gpu-cache 4 \
  --cpu-cache 8 \
  --max-new-tokens 32""",
    ),
    Line(
        "guide-execution.txt:1331",
        r"""python main.py --mode compare --model gpt2 \
  --num-concurrent-users 9 \
  --request-interval 0.3 \
  --gpu-cache 4 \
  --cpu-cache 8""",
    ),
    Line(
        "guide-execution.txt:1343",
        r"""python main.py --mode compare --model gpt2 \
  --num-concurrent-users 6 \
  --request-interval 1.0 \
  --gpu-cache 4 \
  --cpu-cache 8""",
    ),
    Line(
        "guide-execution.txt:1355",
        r"""python main.py --mode compare --model gpt2 \
  --num-concurrent-users 6 \
  --request-interval 0.1 \
  --gpu-cache 4 \
  --cpu-cache 8""",
    ),
    Line(
        "guide-execution.txt:1368",
        "python main.py --mode compare --model gpt2 --num-concurrent-users 1",
    ),
    Line(
        "guide-execution.txt:1371",
        "python main.py --mode compare --model gpt2 --num-concurrent-users 6 --request-interval 0.5",
    ),
    Line(
        "guide-execution.txt:1376",
        r"""python main.py --mode compare --model meta-llama/Meta-Llama-3-8B \
  --num-concurrent-users 6 \
  --request-interval 0.5 \
  --gpu-cache 40 \
  --cpu-cache 100 \
  --max-new-tokens 32""",
    ),
    Line(
        "guide-execution.txt:1508",
        r"""python main.py --dataset sharegt \
  --num-concurrent-users 32 \
  --model meta-llama/Meta-Llama-3-8B-Instruct \
  --gpu-cache 64 \
  --cpu-cache 128 \
  --max-turns 30 \
  --min-turns 10 \
  --max-new-tokens 1024 \
  --num-conversations 20""",
    ),
    Line(
        "guide-execution.txt:1530",
        r"""python main.py --dataset sharegt \
  --num-concurrent-users 3 \
  --model meta-llama/Meta-Llama-3-8B-Instruct \
  --gpu-cache 32 \
  --cpu-cache 64 \
  --max-turns 10 \
  --min-turns 5 \
  --max-new-tokens 256 \
  --num-conversations 5""",
    ),
    Line(
        "guide-execution.txt:1551",
        r"""python main.py --dataset sharegt \
  --num-concurrent-users 16 \
  --model google/gemma-2-27b-it \
  --gpu-cache 64 \
  --cpu-cache 128 \
  --max-turns 20 \
  --min-turns 10 \
  --max-new-tokens 512 \
  --num-conversations 15""",
    ),
    Line(
        "guide-execution.txt:1602",
        r"""python main.py --dataset sharegt --num-concurrent-users 3 \
     --model meta-llama/Meta-Llama-3-8B-Instruct \
     --gpu-cache 32 --cpu-cache 64 \
     --max-turns 10 --min-turns 5 \
     --max-new-tokens 256 \
     --num-conversations 5""",
    ),
    Line(
        "guide-execution.txt:1610",
        r"""python main.py --dataset sharegt --num-concurrent-users 32 \
     --model meta-llama/Meta-Llama-3-8B-Instruct \
     --gpu-cache 64 --cpu-cache 128 \
     --max-turns 30 --min-turns 10 \
     --max-new-tokens 1024 \
     --num-conversations 20""",
    ),
    Line("implementation-summary.md:151", "python main.py --mode pensieve --model gpt2"),
    Line("implementation-summary.md:154", "python main.py --mode vllm --model gpt2"),
    Line("implementation-summary.md:157", "python main.py --mode compare --model gpt2"),
)
