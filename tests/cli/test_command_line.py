"""The command line: it starts fast, and bad input is one clear message with exit status 2."""

import json
import os
import socket
import subprocess
import sys

import pytest

from vllm_pensieve.bench.plan import RECORDED_VARIABLES
from vllm_pensieve.cli.compare import command_line
from vllm_pensieve.cli.serve import serve_arguments, serve_environment, serve_port
from vllm_pensieve.workloads.errors import UsageError

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
            "unknown mode fast; there are: vllm, vllm-apc, vllm-offload, pensieve",
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
        (("users", "--turns", "900"), "the context is 32768; use fewer --turns"),
        (("users", "--gpu-cache", "much"), "Invalid value for '--gpu-cache'"),
        (("users", "--sheet", "nowhere/sheet.md"), "nowhere/sheet.md: its folder does not exist"),
        (
            ("sharegpt", "--min-turns", "4", "--max-turns", "3"),
            "--min-turns 4 is above --max-turns 3",
        ),
        (("sharegpt", "--dataset", "absent.json"), "absent.json: cannot be read: No such file"),
        (("sharegpt", "--dataset", "sharegt"), "ShareGPT_Vicuna_unfiltered' "),
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
    assert serve_arguments("org/model", options)[1:] == [
        "-m",
        "vllm.entrypoints.openai.api_server",
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
    assert serve_arguments("demo", [])[3:] == [
        "--model",
        "/cache/demo",
        "--served-model-name",
        "demo",
    ]
    assert serve_arguments("demo", ["--served-model-name", "x"]).count("--served-model-name") == 1


def test_settings_are_given_as_json_or_as_a_file(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"recovery": false}')
    for given in ('{"recovery": false}', str(path)):
        environment = serve_environment({"HOME": "/h"}, given)
        assert environment["VLLM_PENSIEVE"] == "1"
        assert json.loads(environment["VLLM_PENSIEVE_CONFIG"]) == {"recovery": False}
    assert serve_environment({}, None) == {"VLLM_PENSIEVE": "1"}


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
    stand_in = tmp_path / "vllm" / "entrypoints" / "openai"
    stand_in.mkdir(parents=True)
    for folder in (stand_in, stand_in.parent, stand_in.parent.parent):
        (folder / "__init__.py").write_text("")
    program = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['VLLM_PENSIEVE']]))"
    (stand_in / "api_server.py").write_text(program)
    answer = pensieve(
        "serve", "org/model", "--port", "45009", "--foo.bar", "-x", PYTHONPATH=str(tmp_path)
    )
    assert json.loads(answer.stdout) == [
        ["--model", "org/model", "--port", "45009", "--foo.bar", "-x"],
        "1",
    ]
