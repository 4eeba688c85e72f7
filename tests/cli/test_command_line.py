"""The command line: it starts fast, and bad input is one clear message with exit status 2."""

import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys

import pytest

from vllm_pensieve.bench.plan import RECORDED_VARIABLES
from vllm_pensieve.bench.server import free_port
from vllm_pensieve.cli.compare import command_line
from vllm_pensieve.cli.serve import serve_arguments, serve_environment, serve_port
from vllm_pensieve.errors import UsageError

HEAVY = ("torch", "vllm", "matplotlib", "transformers", "openai", "numpy")


def pensieve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vllm_pensieve", *arguments]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "TERM": "dumb"} | environment
    return subprocess.run(
        command, capture_output=True, text=True, env=env, timeout=120, check=False
    )


def test_nothing_heavy_is_imported_for_help():
    program = f"import sys, vllm_pensieve.cli; print([m for m in {HEAVY} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_help_names_the_commands():
    answer = pensieve("--help")
    assert answer.returncode == 0
    assert "compare" in answer.stdout
    assert "bench" in answer.stdout
    assert "profile" in answer.stdout
    assert "serve" in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--modes", "vllm,fast"),
            "unknown mode fast; choose one of: vllm, vllm-apc, vllm-offload, pensieve",
        ),
        (("--workload", "dreams"), "unknown workload 'dreams'"),
        (("--sessions", "0"), "Invalid value for '--sessions'"),
        (("--think-time-s", "-1"), "Invalid value for '--think-time-s'"),
        (("--port", "70000"), "Invalid value for '--port'"),
        (("--repeat", "many"), "Invalid value for '--repeat'"),
        (("--history-tokens", "40000"), "the context is 32768"),
        (("--model", "no/such-model"), "no model 'no/such-model'"),
        (("--dataset", "absent.json"), "absent.json: cannot be read: No such file"),
    ],
)
def test_bad_input_is_refused(tmp_path, arguments, message):
    out = tmp_path / "out"
    answer = pensieve("compare", "--out", str(out), *arguments)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.splitlines()) <= 2
    assert not out.exists()


def test_bad_input_of_a_benchmark_is_refused():
    answer = pensieve("bench", "transfers", "--blocks", "some")
    assert answer.returncode == 2
    assert answer.stderr.startswith("pensieve: --blocks 'some': give numbers above 0")
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("users", "--num-concurrent-users", "0"), "--users 0: give a whole number from 1"),
        (
            ("users", "--cpu-cache", "1", "--modes", "vllm"),
            "none of the modes vllm uses host memory",
        ),
        (("users", "--turns", "2000"), "--turns 2000: give a whole number from 1 to 1,000"),
        (
            ("users", "--max-new-tokens", "40000"),
            "the context of demo holds 32768; use a smaller --max-new-tokens",
        ),
        (("users", "--gpu-cache", "much"), "Invalid value for '--gpu-cache'"),
        (("users", "--sheet", "nowhere/sheet.md"), "nowhere/sheet.md: its folder does not exist"),
        (
            ("sharegpt", "--min-turns", "4", "--max-turns", "3"),
            "--min-turns 4 is above --max-turns 3",
        ),
        (("sharegpt", "--dataset", "absent.json"), "absent.json: cannot be read: No such file"),
    ],
)
def test_bad_input_of_a_benchmark_over_servers_is_refused(tmp_path, arguments, message):
    out = tmp_path / "out"
    answer = pensieve("bench", *arguments, "--out", str(out))
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.splitlines()) <= 2
    assert not out.exists()


def test_the_command_of_a_run_can_be_typed_again(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["vllm_pensieve/__main__.py", "bench", "users", "--out", "a b"]
    )
    for name in [name for name in os.environ if name.startswith(RECORDED_VARIABLES)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    monkeypatch.setenv("MAX_NEW_TOKENS", "9")
    said = "VLLM_CPU_NUM_OF_RESERVED_CPU=0 MAX_NEW_TOKENS=9 pensieve bench users --out 'a b'"
    assert command_line() == said


def test_a_malformed_dataset_is_named_with_its_record(tmp_path):
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([{"conversations": [7]}]))
    answer = pensieve("compare", "--out", str(tmp_path / "out"), "--dataset", str(path))
    assert answer.returncode == 2
    assert (
        f"{path}: no usable record in it, 1 bad one; record 0: message 0 is not an object but int"
        in answer.stderr
    )


def test_a_port_in_use_is_refused_and_earlier_results_stay(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = pensieve("compare", "--out", str(tmp_path), "--port", str(port))
    assert answer.returncode == 2
    assert f"port {port} cannot be used" in answer.stderr
    assert (tmp_path / "summary.json").read_text() == "{}"


def test_a_server_keeps_every_option_it_is_given():
    options = ["--port", "1234", "--max-model-len=64", "--no-enable-prefix-caching"]
    assert serve_arguments("org/model", options, {})[1:] == [
        "-m",
        "vllm_pensieve.server_process",
        "--model",
        "org/model",
        *options,
    ]


def test_a_server_is_not_started_on_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = pensieve("serve", "org/model", "--port", str(port))
    assert answer.returncode == 2
    assert f"port {port} cannot be used" in answer.stderr


def test_the_port_is_the_last_one_given():
    assert serve_port([]) == 8000
    assert serve_port(["--port", "1", "--port=22", "--seed", "3"]) == 22
    with pytest.raises(UsageError, match="--port x is not a port number"):
        serve_port(["--port", "x"])


def test_the_demo_model_is_served_by_its_name(monkeypatch):
    monkeypatch.setattr("vllm_pensieve.cli.serve.resolve_model", lambda name: "/cache/demo")
    demo = [*DEMO, "--kv-cache-memory-bytes", "536870912", "--block-size", "32"]
    assert serve_arguments("demo", [], {})[3:] == demo
    assert (
        serve_arguments("demo", ["--served-model-name", "x"], {}).count("--served-model-name") == 1
    )


DEMO = ["--model", "/cache/demo", "--served-model-name", "demo"]


@pytest.mark.parametrize(
    ("options", "environment", "added"),
    [
        (["--block-size", "64"], {}, ["--kv-cache-memory-bytes", "536870912"]),
        (["--block_size=64"], {}, ["--kv-cache-memory-bytes", "536870912"]),
        (["--kv-cache-memory-bytes", "1000000"], {}, ["--block-size", "32"]),
        (["--gpu-memory-utilization=0.1"], {}, ["--block-size", "32"]),
        ([], {"VLLM_CPU_KVCACHE_SPACE": "1"}, ["--block-size", "32"]),
    ],
)
def test_what_is_said_of_the_demo_models_memory_and_blocks_counts(
    monkeypatch, options, environment, added
):
    monkeypatch.setattr("vllm_pensieve.cli.serve.resolve_model", lambda name: "/cache/demo")
    assert serve_arguments("demo", options, environment)[3:] == [*DEMO, *added, *options]


@pytest.mark.parametrize("typed", ["--host-cach", "--host_cache", "--host-caches=2"])
def test_a_name_that_is_nearly_one_of_the_commands_own_is_refused_at_once(typed):
    answer = pensieve("serve", "demo", typed, "0.1")
    assert answer.returncode == 2
    name = typed.partition("=")[0]
    assert answer.stderr == f"pensieve: unknown option {name}; did you mean --host-cache-gib?\n"


@pytest.mark.parametrize(
    ("config", "options", "where"),
    [
        ('{"host_cache_gib": 2}', [], "--pensieve-config"),
        (None, [], "VLLM_PENSIEVE_CONFIG"),
        (
            "{}",
            ["--additional-config", '{"pensieve": {"host_cache_gib": 2}}'],
            "--additional-config",
        ),
    ],
)
def test_two_sizes_of_the_host_tier_are_refused(config, options, where):
    base = {"VLLM_PENSIEVE_CONFIG": '{"host_cache_gib": 2}'}
    with pytest.raises(
        UsageError, match=f"--host-cache-gib 1 and host_cache_gib=2 of {where} differ; leave one"
    ):
        serve_environment(base, config, 1.0, options)
    assert json.loads(serve_environment(base, config, 2.0, options)["VLLM_PENSIEVE_CONFIG"])


def test_a_host_tier_larger_than_the_memory_is_refused_before_vllm_starts():
    for arguments in (
        ("--host-cache-gib", "99999"),
        ("--host-cache", "99999"),
        ("--additional-config", '{"pensieve": {"host_cache_gib": 99999}}'),
    ):
        answer = pensieve("serve", "demo", *arguments, "--port", str(free_port()))
        assert answer.returncode == 2
        assert re.fullmatch(
            r"pensieve: a host cache of 99999 GiB is more host memory than there is: [\d.]+ GiB are available; .*\n",
            answer.stderr,
        )


@pytest.mark.engine
def test_a_typing_error_in_an_option_of_vllm_is_named_with_what_was_meant():
    answer = pensieve("serve", "demo", "--blok-size", "32", "--port", str(free_port()))
    assert answer.returncode == 2
    said = answer.stderr.splitlines()[-1]
    assert said.startswith("pensieve: vLLM: unrecognized arguments: --blok-size")
    assert "did you mean --block-size?" in said and "usage" not in answer.stderr


def test_the_versions_are_told():
    answer = pensieve("--version")
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[0] == f"vllm-pensieve {importlib.metadata.version('vllm-pensieve')}"
    assert lines[1] == f"vLLM {importlib.metadata.version('vllm-cpu')} (the build for the CPU)"
    assert lines[2] == f"torch {importlib.metadata.version('torch')}"


def test_settings_are_given_as_json_or_as_a_file(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"recovery": false}')
    for given in ('{"recovery": false}', str(path)):
        environment = serve_environment({"HOME": "/h"}, given)
        assert environment["VLLM_PENSIEVE"] == "1"
        assert json.loads(environment["VLLM_PENSIEVE_CONFIG"]) == {"recovery": False}
    assert serve_environment({}, None) == {"VLLM_PENSIEVE": "1"}


def test_what_keeps_the_plugin_off_counts_for_serve_too():
    off = {"VLLM_PENSIEVE": "0"}
    assert serve_environment(off, None) == off
    with pytest.raises(UsageError, match="VLLM_PENSIEVE=0 keeps the plugin off"):
        serve_environment(off, None, host_cache_gib=1.0)
    with pytest.raises(UsageError, match="VLLM_PENSIEVE='2' is not understood"):
        serve_environment({"VLLM_PENSIEVE": "2"}, None)


def test_the_size_of_the_host_tier_is_an_option_of_its_own():
    inherited = {"VLLM_PENSIEVE_CONFIG": '{"recovery": false}'}
    environment = serve_environment(inherited, None, host_cache_gib=2.5)
    settings = {"recovery": False, "host_cache_gib": 2.5}
    assert json.loads(environment["VLLM_PENSIEVE_CONFIG"]) == settings
    with pytest.raises(UsageError, match=r"'host_cache_gib' is -1\.0; allowed: 0"):
        serve_environment({}, None, host_cache_gib=-1.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{oops", "--pensieve-config is not valid JSON"),
        ("absent.json", "neither a JSON object nor a file"),
        ('{"evction_policy": "lru"}', "unknown setting 'evction_policy'; did you mean"),
        ('{"max_sessions": 0}', "'max_sessions' is 0; allowed: 1 or more"),
    ],
)
def test_settings_that_the_plugin_would_refuse_are_refused_before_vllm_starts(config, message):
    with pytest.raises(UsageError, match=message):
        serve_environment({}, config)


def test_serve_passes_options_through_to_vllm(tmp_path):
    modules = {
        "vllm/entrypoints/launchers/api_server/entry.py": (
            "import json, os, sys\n"
            "def main(): print(json.dumps([sys.argv[1:], os.environ['VLLM_PENSIEVE']]))\n"
        ),
        "vllm/utils/argparse_utils.py": "class FlexibleArgumentParser: pass\n",
    }
    for name, program in modules.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(program)
    for folder in (path for path in tmp_path.rglob("*") if path.is_dir()):
        (folder / "__init__.py").write_text("")
    options = ["--port", str(free_port()), "--foo.bar", "-x"]
    answer = pensieve("serve", "org/model", *options, PYTHONPATH=str(tmp_path))
    assert json.loads(answer.stdout) == [["--model", "org/model", *options], "1"], answer.stderr
