"""Claims about the options of the bare command: each stands for a command and its options."""

import subprocess
import sys

import pytest

from vllm_pensieve.bench.users import users_spec
from vllm_pensieve.cli import main
from vllm_pensieve.cli.chat import ChatOptions


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch):
    """asked(arguments): which command would run, and with what options."""
    seen: list[tuple[str, object]] = []

    def note(command: str):
        def run(options) -> int:
            seen.append((command, options))
            return 0

        return run

    monkeypatch.setattr("vllm_pensieve.cli.chat.run", note("chat"))
    monkeypatch.setattr("vllm_pensieve.cli.users.run", note("users"))
    monkeypatch.setattr("vllm_pensieve.cli.sharegpt.run", note("sharegpt"))
    monkeypatch.setattr("vllm_pensieve.cli.guide_demonstration.run", note("demonstration"))

    def call(arguments: str):
        monkeypatch.setattr(sys, "argv", ["pensieve", *arguments.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        (one,) = seen
        return one

    return call


def test_interactive_is_the_chat(asked):
    arguments = "--mode vllm --model gpt2 --gpu-cache 0.1 --max-new-tokens 9 --device cuda:0"
    assert asked(f"{arguments} --interactive -- --dtype float32") == (
        "chat",
        ChatOptions(
            mode="vllm",
            model="gpt2",
            gpu_cache_gb=0.1,
            max_new_tokens=9,
            device="cuda:0",
            vllm_options=("--dtype", "float32"),
        ),
    )


def test_users_who_talk_at_the_same_time(asked):
    command, options = asked(
        "--mode compare --num-concurrent-users 6 --request-interval 2.5 --max-new-tokens 32 "
        "--gpu-cache 0.5 --cpu-cache 1 --device cpu"
    )
    assert command == "users"
    assert (options.modes, options.users) == ("pensieve,vllm,vllm-apc", 6)
    assert (options.request_interval_s, options.max_new_tokens) == (2.5, 32)
    assert (options.gpu_cache_gb, options.cpu_cache_gb, options.device) == (0.5, 1.0, "cpu")


@pytest.mark.parametrize("mode", ["pensieve", "vllm"])
def test_a_mode_alone_is_a_demonstration_with_the_guides_defaults(asked, mode):
    command, options = asked(f"--mode {mode}")
    assert (command, options.users, options.modes) == ("demonstration", 1, mode)
    spec = users_spec(options)
    assert (spec.think_time_s, spec.output_tokens, spec.turns) == (0.5, 32, 10)


@pytest.mark.parametrize("more", ["--num-concurrent-users 6", "--preset fast", "--sheet s.md"])
def test_a_mode_alone_is_measured_where_results_are_asked_for(asked, more):
    command, options = asked(f"--mode pensieve {more}")
    assert (command, options.modes) == ("users", "pensieve")


def test_comparing_one_user_has_the_guides_defaults(asked):
    command, options = asked("--mode compare")
    assert (command, options.users, options.modes) == ("users", 1, "pensieve,vllm,vllm-apc")
    assert users_spec(options).think_time_s == 0.5


def test_all_options_of_a_benchmark_and_of_vllm_stand_without_a_command(asked):
    _, options = asked(
        "--mode compare --turns 6 --history-tokens 99 --preset stress --out results --sheet s.md "
        "-- --dtype float32 --max-num-seqs 4"
    )
    assert (options.turns, options.history_tokens, options.preset) == (6, 99, "stress")
    assert (str(options.out), str(options.sheet)) == ("results", "s.md")
    assert options.server_options == ("--dtype", "float32", "--max-num-seqs", "4")


def test_what_follows_a_command_is_the_commands(asked):
    command, options = asked("chat --model demo -- --dtype float32")
    assert (command, options.vllm_options) == ("chat", ("--dtype", "float32"))


def test_no_option_at_all_is_the_demonstration_and_says_how_to_get_help(asked, capsys):
    command, options = asked("")
    assert (command, options.model, options.modes) == ("demonstration", "demo", "pensieve")
    said = capsys.readouterr().err
    assert "pensieve --help" in said
    assert "model: demo, since the guide's default, meta-llama/Meta-Llama-3-8B" in said
    assert "--gpu-cache 40 --cpu-cache 100" in said


def test_the_guides_model_is_taken_where_its_folder_is(asked, tmp_path, monkeypatch):
    folder = tmp_path / "meta-llama" / "Meta-Llama-3-8B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    _, options = asked("--mode pensieve")
    assert options.model == "meta-llama/Meta-Llama-3-8B"


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
    assert options.modes == "pensieve,vllm,vllm-apc"  # as the guide's lines expect without a mode
    assert options.generated_otherwise


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--mode fast", "unknown --mode 'fast'; choose one of: pensieve, vllm, compare"),
        ("--mode compare chat", "--mode comes before the command chat"),
        ("--interactive --mode compare", "--interactive takes --mode pensieve or vllm"),
        ("--interactive --num-concurrent-users 3", "--num-concurrent-users is for a benchmark"),
        ("--interactive --dataset sharegpt", "--dataset is for a benchmark"),
        ("--dataset generated --turns 3", "--turns is for generated conversations"),
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
