"""Switching the plugin on and off, and refusing what it cannot work with."""

import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from vllm_pensieve import plugin
from vllm_pensieve.config import ConfigError, PensieveConfig
from vllm_pensieve.vllm_hooks import host


@pytest.fixture
def engine_args(monkeypatch, tmp_path):
    """vLLM's engine arguments for no model in particular, with the plugin's switches unset."""
    from vllm import envs
    from vllm.engine.arg_utils import EngineArgs

    envs.disable_envs_cache()  # an engine of this process has vLLM read the environment once
    monkeypatch.delenv("VLLM_PENSIEVE", raising=False)
    monkeypatch.delenv("VLLM_PENSIEVE_CONFIG", raising=False)
    return lambda **kwargs: EngineArgs(model=str(tmp_path), **kwargs)


def test_off_it_leaves_the_engine_arguments_alone(engine_args):
    args, untouched = engine_args(), engine_args()
    plugin.configure(args)
    assert args == untouched


def test_with_the_simulator_the_front_end_refuses_log_probabilities_it_cannot_give(engine_args):
    args = engine_args(distributed_executor_backend=plugin.SIMULATOR)
    plugin.configure(args)
    assert args.max_logprobs == 0
    assert args.scheduler_cls is None  # nothing else


@pytest.mark.parametrize("switch", ["environment", "additional_config"])
def test_on_it_sets_the_scheduler_and_passes_its_settings_on(engine_args, monkeypatch, switch):
    additional = {"other": 1}
    if switch == "environment":
        monkeypatch.setenv("VLLM_PENSIEVE", "1")
        monkeypatch.setenv("VLLM_PENSIEVE_CONFIG", '{"recovery": false, "max_sessions": 10000}')
    else:
        additional["pensieve"] = {"recovery": False}
    args = engine_args(additional_config=additional)
    plugin.configure(args)
    assert args.scheduler_cls == "vllm_pensieve.scheduler.make_scheduler"
    settings = {"other": 1, "pensieve": asdict(PensieveConfig(recovery=False))}
    assert args.additional_config == settings
    plugin.configure(args)  # as when a configuration is made from the same arguments again
    assert (args.scheduler_cls, args.additional_config) == (plugin.SCHEDULER, settings)


def test_memory_that_the_kv_cache_takes_is_not_there_for_the_host_tier(engine_args, monkeypatch):
    from vllm_pensieve.swap import host_memory

    monkeypatch.setattr(host_memory, "available_bytes", lambda: 10 * 2**30)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")

    def configure(host_cache_gib, **kwargs):
        args = engine_args(
            additional_config={"pensieve": {"host_cache_gib": host_cache_gib}}, **kwargs
        )
        plugin.configure(args)

    configure(8.0)
    configure(8.0, kv_cache_memory_bytes=2 * 2**30)
    too_much = (
        r"host_cache_gib=8.0 .* 4\.00 GiB are available in addition to 6\.00 GiB for the KV cache"
    )
    with pytest.raises(ConfigError, match=too_much):
        configure(8.0, kv_cache_memory_bytes=3 * 2**30, tensor_parallel_size=2)
    configure(8.0, kv_cache_memory_bytes=6 * 2**30, num_gpu_blocks_override=10)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "6")
    with pytest.raises(ConfigError, match=too_much):
        configure(8.0, kv_cache_memory_bytes=1)


@pytest.mark.parametrize(
    ("settings", "told", "warnings"),
    [
        ({}, "with its defaults.", "a custom scheduler class: that"),
        (
            {"verify_swaps": True, "host_cache_gib": 0.001, "recovery": True},
            "with host_cache_gib=0.001, verify_swaps=True.",
            "a custom scheduler class and of an experimental KV connector: that",
        ),
    ],
)
def test_the_start_log_tells_version_settings_and_which_warnings_are_intended(
    engine_args, caplog_vllm, settings, told, warnings
):
    from vllm import logger

    from vllm_pensieve.version import __version__

    logger._print_info_once.cache_clear()  # this process has made engines before
    args = engine_args(additional_config={"pensieve": settings})
    plugin.configure(args)
    plugin.configure(args)  # vLLM makes the configuration twice at times
    (line,) = [r.getMessage() for r in caplog_vllm.records if "is on with" in r.getMessage()]
    assert line.startswith(f"Pensieve {__version__} is on {told} vLLM warns of {warnings}")


def test_another_scheduler_is_refused(engine_args):
    args = engine_args(additional_config={"pensieve": {}}, scheduler_cls="my.Scheduler")
    with pytest.raises(ConfigError, match=r"scheduler_cls is 'my\.Scheduler'; remove that option"):
        plugin.configure(args)


def test_a_host_tier_brings_its_connector_and_opens_nothing_else(engine_args):
    args = engine_args(additional_config={"pensieve": {"host_cache_gib": 0.001}})
    plugin.configure(args)
    plugin.configure(args)
    connector = args.kv_transfer_config
    assert (connector.kv_connector, connector.is_kv_transfer_instance) == (
        "PensieveConnector",
        True,
    )
    assert connector.kv_load_failure_policy == "recompute"
    # vLLM lets clients send embeddings to multimodal models when KV is consumed from elsewhere.
    assert not connector.is_kv_consumer


def test_more_host_memory_than_there_is_is_refused_with_both_numbers(engine_args):
    args = engine_args(additional_config={"pensieve": {"host_cache_gib": 1_000_000}})
    with pytest.raises(ConfigError, match=r"host_cache_gib=1000000 .* [\d.]+ GiB are available"):
        plugin.configure(args)


def test_a_trace_that_could_not_be_written_is_refused_before_anything_is_loaded(
    engine_args, tmp_path, monkeypatch
):
    from vllm.v1.engine.utils import CoreEngineProcManager

    from vllm_pensieve.trace.writer import TraceWriter

    monkeypatch.setattr(CoreEngineProcManager, "shutdown", CoreEngineProcManager.shutdown)

    def configured(prefix, **options):
        settings = {"pensieve": {"trace_prefix": str(prefix)}}
        plugin.configure(engine_args(additional_config=settings, **options))

    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"trace .*file/t_.* cannot be written: .* choose another"
    ):
        configured(tmp_path / "file" / "t")
    writer = TraceWriter(str(tmp_path / "t"), 10**9)
    with pytest.raises(ConfigError, match=r"t_requests\.jsonl is being written by another engine"):
        configured(tmp_path / "t")
    configured(tmp_path / "t", data_parallel_rank=1)  # another engine of the same servers
    writer.close()
    configured(tmp_path / "t")
    configured(tmp_path / "new" / "t")
    assert CoreEngineProcManager.shutdown.leaves_time_for_traces
    assert not list((tmp_path / "new").iterdir())


def test_a_connector_of_the_users_is_kept_and_what_is_off_is_said(engine_args, caplog_vllm):
    from vllm.config import KVTransferConfig

    theirs = KVTransferConfig(kv_connector="ExampleConnector", kv_role="kv_both")
    args = engine_args(
        additional_config={"pensieve": {"host_cache_gib": 0.001}}, kv_transfer_config=theirs
    )
    plugin.configure(args)
    assert args.kv_transfer_config is theirs
    assert "ExampleConnector is kept; there is no host tier and no recovery" in caplog_vllm.text
    args = engine_args(
        additional_config={"pensieve": {"host_cache_gib": 0.001}}, kv_offloading_size=1.0
    )
    plugin.configure(args)
    assert args.kv_transfer_config is None
    assert "--kv-offloading-size" in caplog_vllm.text


def test_vllm_finds_the_plugin_and_it_changes_nothing_when_off():
    check = (
        "from vllm.engine.arg_utils import EngineArgs\n"
        "from vllm.plugins import load_general_plugins; load_general_plugins(); load_general_plugins()\n"
        "from vllm.v1.metrics import loggers\n"
        "import sys\n"
        "assert EngineArgs.create_engine_config.wrapped_by_pensieve\n"
        "assert loggers.KVConnectorProm.__module__.startswith('vllm.')\n"
        "assert 'vllm_pensieve.scheduler' not in sys.modules\n"
    )
    assert_runs(check)


def test_a_process_that_makes_no_engine_arguments_does_not_import_them_for_the_plugin():
    check = (
        "import sys, vllm.plugins; vllm.plugins.load_general_plugins()\n"
        "assert 'vllm.engine.arg_utils' not in sys.modules\n"
        "import vllm.envs; assert 'VLLM_PENSIEVE' in vllm.envs.environment_variables\n"
    )
    assert_runs(check)


def assert_runs(code: str) -> None:
    """In a process of its own, with nothing imported before."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_our_connector_costs_no_core(engine_args, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_NUM_OF_RESERVED_CPU", "7")  # so that it is put back afterwards
    monkeypatch.delenv("VLLM_CPU_NUM_OF_RESERVED_CPU")
    monkeypatch.setattr(host, "_reserved_by_us", [])
    plugin.configure(engine_args(additional_config={"pensieve": {}}))
    assert "VLLM_CPU_NUM_OF_RESERVED_CPU" not in os.environ
    with_host_tier = {"pensieve": {"host_cache_gib": 0.001}}
    plugin.configure(engine_args(additional_config=with_host_tier, tensor_parallel_size=2))
    assert os.environ["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "2"  # as many as without a connector
    plugin.configure(
        engine_args(additional_config=with_host_tier)
    )  # another engine of this process
    assert os.environ["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "1"
    monkeypatch.setenv("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    plugin.configure(engine_args(additional_config=with_host_tier))
    assert os.environ["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"
