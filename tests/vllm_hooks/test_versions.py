"""A vLLM that the plugin was not made for is refused, by its version or by what it lacks."""

import pytest

from vllm_pensieve.vllm_hooks import versions


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "0.3.2", "1.0"])
def test_another_version_of_vllm_is_refused_in_one_sentence_that_names_both(monkeypatch, version):
    import vllm

    monkeypatch.setattr(vllm, "__version__", version)
    with pytest.raises(versions.UnsupportedVllmError) as refusal:
        versions.check_vllm()
    assert "works with vLLM 0.32" in str(refusal.value)
    assert f"vLLM {version} is installed" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1+cpu"])
def test_the_supported_version_passes(monkeypatch, version):
    import vllm

    monkeypatch.setattr(vllm, "__version__", version)
    versions.check_vllm()


def test_a_hook_that_changed_is_refused_by_name(monkeypatch):
    from vllm.v1.core.block_pool import BlockPool

    monkeypatch.setattr(BlockPool, "evict_blocks", lambda self: None)
    with pytest.raises(
        versions.UnsupportedVllmError, match=r"BlockPool\.evict_blocks has no parameter 'block_ids'"
    ):
        versions.check_vllm()
    monkeypatch.delattr(BlockPool, "evict_blocks")
    with pytest.raises(
        versions.UnsupportedVllmError, match=r"BlockPool\.evict_blocks does not exist"
    ):
        versions.check_vllm()
