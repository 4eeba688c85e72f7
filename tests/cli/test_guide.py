"""Claims about the options of the bare command: each stands for a command and its options."""

import subprocess
import sys

import pytest

from vllm_pensieve.bench.sharegpt import ShareGptOptions
from vllm_pensieve.cli import main


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch):
    """asked(arguments): which command would run, and with what options."""
    seen: list[tuple[str, object]] = []

    def note(command: str):
        def run(*args, **options) -> int:
            seen.append((command, args[0] if args else options))
            return 0

        return run

    monkeypatch.setattr("vllm_pensieve.cli.chat.run", note("chat"))
    monkeypatch.setattr("vllm_pensieve.cli.users.run", note("users"))
    monkeypatch.setattr("vllm_pensieve.cli.sharegpt.run", note("sharegpt"))

    def call(arguments: str):
        monkeypatch.setattr(sys, "argv", ["pensieve", *arguments.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        (one,) = seen
        return one

    return call


def test_interactive_is_the_chat(asked):
    arguments = "--mode vllm --model gpt2 --gpu-cache 4 --max-new-tokens 9 --device cuda:0"
    assert asked(f"{arguments} --interactive") == (
        "chat",
        {
            "mode": "vllm",
            "model": "gpt2",
            "gpu_cache_gb": 4.0,
            "max_new_tokens": 9,
            "device": "cuda:0",
        },
    )


def test_users_who_talk_at_the_same_time(asked):
    command, options = asked(
        "--mode compare --num-concurrent-users 6 --request-interval 2.5 --max-new-tokens 32 "
        "--gpu-cache 0.5 --cpu-cache 1 --device cpu"
    )
    assert command == "users"
    assert (options.modes, options.users) == ("vllm,vllm-apc,pensieve", 6)
    assert (options.request_interval_s, options.max_new_tokens) == (2.5, 32)
    assert (options.gpu_cache_gb, options.cpu_cache_gb, options.device) == (0.5, 1.0, "cpu")


@pytest.mark.parametrize(
    ("mode", "modes"),
    [("pensieve", "pensieve"), ("vllm", "vllm"), ("compare", "vllm,vllm-apc,pensieve")],
)
def test_a_mode_alone_serves_one_user(asked, mode, modes):
    command, options = asked(f"--mode {mode}")
    assert (command, options.users, options.modes) == ("users", 1, modes)


@pytest.mark.parametrize("spelling", ["sharegpt", "sharegt", "chats.json"])
def test_a_dataset_is_replayed(asked, spelling):
    command, options = asked(
        f"--dataset {spelling} --num-conversations 9 --min-turns 3 --max-turns 8 "
        "--num-concurrent-users 4"
    )
    assert command == "sharegpt"
    assert options.dataset == spelling
    assert (options.num_conversations, options.users) == (9, 4)
    assert (options.min_turns, options.max_turns) == (3, 8)


def test_a_dataset_is_replayed_with_as_many_users_as_its_own_command(asked):
    _, options = asked("--dataset generated")
    assert options == ShareGptOptions(dataset="generated")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--mode fast", "unknown --mode 'fast'; there are: pensieve, vllm, compare"),
        ("--mode compare chat", "--mode stands before the command chat"),
        ("--interactive --mode compare", "--interactive takes --mode pensieve or vllm"),
        ("--interactive --num-concurrent-users 3", "--num-concurrent-users is for a benchmark"),
        ("--interactive --dataset sharegpt", "--dataset is for a benchmark"),
        ("--min-turns 3", "--min-turns is for a data set; name one with --dataset"),
        ("--num-concurrent-users 0", "Invalid value for '--num-concurrent-users'"),
        ("--request-interval -1", "Invalid value for '--request-interval'"),
        ("--dataset generated --min-turns 5 --max-turns 2", "--min-turns 5"),
        ("--dataset nowhere.json", "nowhere.json: cannot be read"),
        ("--mode vllm --cpu-cache 1", "none of the modes vllm uses host memory"),
        ("--gpu-cache 0", "--gpu-cache 0"),
        ("--device cuda:0", "the installed vLLM is the CPU build"),
        ("--interactive --gpu-cache 0", "gpu_cache_gb is 0.0"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments, said, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "vllm_pensieve", *arguments.split()],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_no_option_at_all_shows_the_help():
    done = subprocess.run(
        [sys.executable, "-m", "vllm_pensieve"], capture_output=True, text=True, check=True
    )
    assert "--num-concurrent-users" in done.stdout and "compare" in done.stdout
