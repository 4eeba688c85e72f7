"""Settings: where they come from, and what is refused with which words."""

import dataclasses
import json
import os

import pytest

from vllm_pensieve.config import (
    ConfigError,
    PensieveConfig,
    default_max_new_tokens,
    profile_folder,
    switched_on,
    vllm_cache_settings,
)


def test_vllm_keeps_its_files_among_temporary_ones_where_its_own_place_cannot_be_written(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "a file").touch()
    theirs = {"XDG_CACHE_HOME": str(tmp_path / "a file")}
    (added,) = vllm_cache_settings(theirs).items()
    assert added == ("VLLM_CACHE_ROOT", str(tmp_path / f"vllm-pensieve-{os.getuid()}" / "vllm"))
    assert vllm_cache_settings({"XDG_CACHE_HOME": str(tmp_path / "new")}) == {}
    assert vllm_cache_settings(theirs | {"VLLM_CACHE_ROOT": "/elsewhere"}) == {}


@pytest.mark.parametrize("environment", [{}, {"VLLM_PENSIEVE": "0"}, {"VLLM_PENSIEVE": ""}])
def test_the_plugin_is_off_unless_asked_for(environment):
    assert switched_on({}, environment) is None
    assert switched_on(None, environment) is None


def test_an_explicit_0_keeps_it_off_whatever_else_is_said():
    assert switched_on({"pensieve": {}}, {"VLLM_PENSIEVE": "0"}) is None


def test_the_environment_or_the_additional_config_switches_it_on():
    assert switched_on({}, {"VLLM_PENSIEVE": "1"}) == PensieveConfig()
    assert switched_on({"pensieve": {}}, {}) == PensieveConfig()


def test_settings_of_the_additional_config_override_those_of_the_environment(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"eviction_policy": "lru", "max_sessions": 5}))
    for text in (str(file), file.read_text()):
        config = switched_on({"pensieve": {"max_sessions": 7}}, {"VLLM_PENSIEVE_CONFIG": text})
        assert config == PensieveConfig(eviction_policy="lru", max_sessions=7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"evction_policy": "lru"},
            "unknown setting 'evction_policy'; did you mean 'eviction_policy'",
        ),
        ({3: 1}, "unknown setting 3"),
        ({"colour": 1}, "unknown setting 'colour'.*Known settings: eviction_policy, recovery"),
        (
            {"eviction_policy": "mru"},
            "'eviction_policy' is 'mru'; allowed: one of retention, lru, lru-head-first, fifo",
        ),
        ({"eviction_policy": 3}, "'eviction_policy' is 3; allowed: a string"),
        ({"recovery": "no"}, "'recovery' is 'no'; allowed: true or false"),
        ({"step_cost_tokens": -1}, "'step_cost_tokens' is -1; allowed: 0 or more"),
        ({"step_cost_tokens": True}, "'step_cost_tokens' is True; allowed: a whole number"),
        ({"step_cost_tokens": 1.5}, "'step_cost_tokens' is 1.5; allowed: a whole number"),
        ({"cost_profile": None}, "'cost_profile' is None; allowed: a string"),
        ({"cost_bucket_ratio": 0.9}, "'cost_bucket_ratio' is 0.9; allowed: from 1.0 to 2.0"),
        ({"cost_bucket_ratio": float("nan")}, "'cost_bucket_ratio' is nan"),
        ({"max_sessions": 0}, "'max_sessions' is 0; allowed: 1 or more"),
        ({"host_cache_gib": -1}, "'host_cache_gib' is -1; allowed: 0 .no host tier. or a size"),
        ({"host_cache_gib": float("inf")}, "'host_cache_gib' is inf"),
        ({"host_cache_gib": "8"}, "'host_cache_gib' is '8'; allowed: a number"),
        ({"ahead_of_time_threshold": 1.5}, "'ahead_of_time_threshold' is 1.5; allowed: from 0.0"),
        ({"admission_reserve": 1.0}, "'admission_reserve' is 1.0; allowed: 0.0 or more, below 1.0"),
        ({"load_cost_flops_per_byte": -1}, "'load_cost_flops_per_byte' is -1"),
        ({"step_cost_tokens": 10**400}, "'step_cost_tokens' is 1000.*below 2.31"),
        ({"host_cache_gib": 10**400}, "'host_cache_gib' is 1000.*that a double can hold"),
        ({"trace_max_mb": 1e305}, "'trace_max_mb' is 1e.305; allowed: from 0.001 to 1000000000"),
        ({"trace_max_mb": 0}, "'trace_max_mb' is 0; allowed: from 0.001"),
        ({"trace_prefix": "/"}, "'trace_prefix' is '/'; allowed: the beginning of a file's name"),
        ({"trace_prefix": "traces/"}, "'trace_prefix' is 'traces/'; allowed: the beginning"),
        ({"trace_prefix": "."}, "'trace_prefix' is '.'"),
        ({"trace_prefix": "a/.."}, "'trace_prefix' is 'a/..'"),
        ({"trace_prefix": "a\0b"}, "'trace_prefix' is 'a.x00b'"),
        (
            {"trace_session_ids": "raw"},
            "'trace_session_ids' is 'raw'; allowed: one of hashed, plain",
        ),
        ({"verify_swaps": 1}, "'verify_swaps' is 1; allowed: true or false"),
    ],
)
def test_a_bad_setting_is_refused_by_name_value_and_what_is_allowed(settings, message):
    with pytest.raises(ConfigError, match=message):
        PensieveConfig.from_mapping(settings)


@pytest.mark.parametrize(
    ("additional_config", "environment", "message"),
    [
        ({}, {"VLLM_PENSIEVE": "yes"}, "VLLM_PENSIEVE='yes' is not understood; allowed: 1"),
        ({"pensieve": True}, {}, "is True; a JSON object of settings is expected"),
        (
            {"pensieve": {}},
            {"VLLM_PENSIEVE_CONFIG": "{bad"},
            "VLLM_PENSIEVE_CONFIG is not valid JSON",
        ),
        (
            {"pensieve": {}},
            {"VLLM_PENSIEVE_CONFIG": "/no/such/file"},
            "neither a JSON object nor a file",
        ),
    ],
)
def test_a_switch_or_source_that_cannot_be_read_is_refused(additional_config, environment, message):
    with pytest.raises(ConfigError, match=message):
        switched_on(additional_config, environment)


def test_a_settings_file_that_holds_no_object_is_refused_by_its_name(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text("[1]")
    with pytest.raises(ConfigError, match=r"settings\.json holds \[1\]"):
        switched_on({"pensieve": {}}, {"VLLM_PENSIEVE_CONFIG": str(file)})


def test_the_length_of_replies_may_come_from_the_environment():
    assert default_max_new_tokens(64, {}) == 64
    assert default_max_new_tokens(64, {"MAX_NEW_TOKENS": " 7 "}) == 7
    for bad in ("0", "-3", "many", "1.5"):
        with pytest.raises(ConfigError, match=r"MAX_NEW_TOKENS=.*above 0"):
            default_max_new_tokens(64, {"MAX_NEW_TOKENS": bad})


def test_an_explicit_price_of_a_step_is_kept_and_none_is_set_otherwise():
    assert PensieveConfig().step_cost_tokens is None
    assert PensieveConfig.from_mapping({"step_cost_tokens": 0}).step_cost_tokens == 0
    # as the settings travel to the engine: the defaults among them
    assert PensieveConfig.from_mapping(dataclasses.asdict(PensieveConfig())) == PensieveConfig()


def test_profiles_are_kept_in_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert profile_folder() == tmp_path / "vllm-pensieve" / "profiles"
