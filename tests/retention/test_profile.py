"""Profile files: what is written is read again, and nothing else."""

import dataclasses
import json
import stat
from datetime import UTC, datetime

import pytest

from tests.retention.profiles import KEY, a_profile
from vllm_pensieve.retention.profile import (
    ProfileError,
    default_path,
    profiles_in,
    read_profile,
    write_profile,
)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "profile.json"
    write_profile(a_profile(), path)
    return path


def changed(path, **fields):
    """The same file with other fields; `a__1__b` is field b of the second part of a."""
    content = json.loads(path.read_text())
    for name, value in fields.items():
        *outer, last = name.split("__")
        target = content
        for part in outer:
            target = target[int(part) if part.isdecimal() else part]
        target[last] = value
    path.write_text(json.dumps(content))
    return path


def test_what_was_written_is_read(written):
    assert read_profile(written) == a_profile()
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert [p.name for p in written.parent.iterdir()] == ["profile.json"]


def test_its_costs_are_those_of_its_points(written):
    costs = read_profile(written).cost_model()
    assert costs.span(0, 1) == 1e-4
    assert costs.span(1024, 1025) == pytest.approx(2e-4)
    assert costs.step(1000) == pytest.approx(5e-3 + 1e-3)


def test_a_write_that_fails_leaves_the_old_file(written, monkeypatch):
    before = written.read_text()

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_profile(a_profile(step_s=9.0), written)
    assert written.read_text() == before
    assert [p.name for p in written.parent.iterdir()] == ["profile.json"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema": 2}, "of schema 2; this version reads 1, measure again"),
        ({"schema": "1"}, "schema"),
        ({"points": []}, "a value at 0 and at one more position"),
        ({"points": [{"context_tokens": 0, "token_s": 1.0}]}, "at one more position"),
        ({"points__0__token_s": 0}, "must be positive"),
        ({"points__0__token_s": -1e-4}, "must be positive"),
        ({"points__1__token_s": 1e-5}, "may not fall with its depth"),
        ({"points__1__token_s": None}, "token_s|points"),
        ({"points__1__context_tokens": 0}, "must ascend"),
        ({"points__1__context_tokens": 1.5}, "Expected `int`"),
        ({"step_s": -0.1}, "less than nothing"),
        ({"step_s_per_context_token": -1e-9}, "less than nothing"),
        ({"load_bytes_per_s": 0}, "a bandwidth must be positive"),
        ({"store_bytes_per_s": -1}, "a bandwidth must be positive"),
        ({"date": "yesterday"}, "Invalid RFC3339"),
        ({"date": "2026-11-21T10:00:00"}, "no time zone"),
        ({"key__logical_cpus": "two"}, "Expected `int`"),
        ({"key": {}}, "missing required field"),
    ],
)
def test_numbers_that_cannot_be_costs_are_refused(written, fields, message):
    with pytest.raises(ProfileError, match=rf"profile\.json: .*({message})"):
        read_profile(changed(written, **fields))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a profile"),
        (b"{", "not a profile"),
        (b"[]", "not a profile"),
        (b"{}", "missing required field `schema`"),
        (b'{"schema": 1}', "missing required field"),
        (b'{"schema": 1, "step_s": NaN}', "not a profile"),
        (b"\xff\xfe", "not a profile"),
        (b"[" * 100_000, "not a profile"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match=message):
        read_profile(path)


def test_a_file_that_cannot_be_read_is_refused_by_its_name(tmp_path):
    with pytest.raises(ProfileError, match=r"absent\.json: cannot be read: No such file"):
        read_profile(tmp_path / "absent.json")
    with pytest.raises(ProfileError, match="cannot be read: Is a directory"):
        read_profile(tmp_path)


def test_a_folder_gives_its_profiles_and_why_others_are_none(tmp_path):
    write_profile(a_profile(), tmp_path / "b.json")
    (tmp_path / "a.json").write_text("{")
    (tmp_path / ".c.json-x.json").write_text("half")
    (tmp_path / "b.png").write_text("a figure")
    (bad, error), (good, profile) = profiles_in(tmp_path)
    assert (bad.name, good.name) == ("a.json", "b.json")
    assert isinstance(error, ProfileError) and profile == a_profile()


def test_a_folder_that_is_not_there_gives_nothing(tmp_path):
    assert list(profiles_in(tmp_path / "absent")) == []


def test_the_default_file_is_named_after_model_and_date_in_a_folder_for_the_owner_only(tmp_path):
    folder = tmp_path / "cache" / "profiles"
    date = datetime(2026, 11, 21, 10, 2, 3, tzinfo=UTC)
    measured = dataclasses.replace(a_profile().measured, model="/models/../My Model!")
    path = default_path(a_profile(date=date, measured=measured), folder)
    assert path == folder / "My-Model-20261121T100203.json"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_keys_tell_what_differs_down_to_the_shape():
    other = dataclasses.replace(
        KEY, dtype="float32", shape=dataclasses.replace(KEY.shape, layers=5)
    )
    assert KEY.differences(KEY) == []
    assert KEY.differences(other) == ["layers: 4, here 5", "dtype: 'bfloat16', here 'float32'"]
