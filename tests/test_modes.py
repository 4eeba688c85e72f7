"""Modes: what is added to the server, and what is refused."""

import json

import pytest

from vllm_pensieve.config import PensieveConfig
from vllm_pensieve.errors import UsageError
from vllm_pensieve.modes import MODES, parse_modes


def test_modes_keep_the_order_they_are_named_in():
    assert [mode.name for mode in parse_modes("pensieve, vllm")] == ["pensieve", "vllm"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("vllm,fast", "unknown mode fast; choose one of: vllm, "),
        ("", "no mode"),
        ("vllm,vllm", "twice"),
        (
            "vllm,vllm-offload,pensieve-no-swap",
            "vllm-offload, pensieve-no-swap: give the host memory",
        ),
    ],
)
def test_modes_that_do_not_exist_are_refused(names, message):
    with pytest.raises(UsageError, match=message):
        parse_modes(names)


def test_stock_modes_never_see_the_plugin():
    inherited = {"VLLM_PENSIEVE": "1", "VLLM_PENSIEVE_CONFIG": "{}", "HOME": "/h"}
    for name in ("vllm", "vllm-apc"):
        assert MODES[name].environment(inherited) == {"HOME": "/h"}
        assert "--additional-config" not in MODES[name].options()


def test_pensieve_modes_turn_it_on_with_settings_that_exist():
    for name in ("pensieve", "pensieve-lru", "pensieve-no-recovery"):
        assert MODES[name].environment({"VLLM_PENSIEVE_CONFIG": "{}"}) == {"VLLM_PENSIEVE": "1"}
        options = MODES[name].options()
        settings = json.loads(options[options.index("--additional-config") + 1])["pensieve"]
        config = PensieveConfig.from_mapping(settings)
        assert {name: getattr(config, name) for name in settings} == settings


def test_host_memory_goes_to_every_mode_that_swaps_and_to_no_other():
    modes = {m.name: m for m in parse_modes(",".join(MODES), host_cache_gib=2.0)}
    for name, mode in modes.items():
        has_ours = (mode.pensieve or {}).get("host_cache_gib") == 2.0
        assert has_ours == (name in ("pensieve", "pensieve-lru", "pensieve-no-recovery")), name
        assert ("--kv-transfer-config" in mode.options()) == (name == "vllm-offload"), name
    offload = modes["vllm-offload"].options()
    connector = json.loads(offload[offload.index("--kv-transfer-config") + 1])
    assert connector["kv_connector_extra_config"] == {
        "cpu_bytes_to_use": 2 << 30,
        "offload_prompt_only": False,
    }


def test_every_mode_has_a_colour_and_a_marker_of_its_own():
    from vllm_pensieve.bench.figures import LOOKS

    assert set(LOOKS) == set(MODES)
    for values in zip(*LOOKS.values(), strict=True):
        assert len(set(values)) == len(LOOKS)
