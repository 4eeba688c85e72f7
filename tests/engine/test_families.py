"""The families of models: prompts with holes, and from host memory, are answered as by stock vLLM.

GPT-2 and OPT add learned positions to the embeddings, Llama 3 rotates queries and keys by scaled angles, Gemma 2 has
windows in every other layer; here vLLM treats its layers alike. So it does with Gemma 4, whose layers without a window
have larger blocks: the scheduler knows the first layer's only.
"""

from dataclasses import dataclass
from typing import Any

import pytest

pytestmark = pytest.mark.engine

BLOCK = 32
LENGTH = 13 * BLOCK + 9
WINDOW = 3 * BLOCK
HOLES = {  # blocks lost
    "leading": [0, 1, 2],
    "middle": [5, 6],
    "several": [1, 4, 5, 9],
    "behind a window": [2, 3, 4, 5, 6],
    "in a window and before it": [3, 11, 12],
    "all but the last": list(range(12)),
}


@dataclass(frozen=True)
class Kind:
    """block_bytes: of all layers, in float32."""

    maker: str
    block_bytes: int
    model: dict[str, Any]
    engine: dict[str, Any]


KINDS = {
    "gpt2": Kind("make_gpt2", 4 * BLOCK * 2 * 128 * 4, {}, {}),
    "opt": Kind("make_opt", 4 * BLOCK * 2 * 128 * 4, {}, {}),
    "llama3": Kind("make_llama3", 4 * BLOCK * 2 * 64 * 4, {}, {}),
    "gemma2": Kind(
        "make_gemma2",
        4 * BLOCK * 2 * 64 * 4,
        {"window_tokens": WINDOW},
        {"disable_hybrid_kv_cache_manager": True},
    ),
    "gemma4": Kind(
        "make_gemma4",
        2 * BLOCK * 2 * 64 * 4 + 2 * BLOCK * 2 * 128 * 4,
        {"window_tokens": WINDOW},
        {"disable_hybrid_kv_cache_manager": True},
    ),
}


class Family:
    """Stock vLLM with ample memory, and ours with little of it and a host tier, on the same model."""

    def __init__(self, name: str, folder, serve) -> None:
        from vllm_pensieve.testing import models
        from vllm_pensieve.testing.served import pensieve_messages

        kind = KINDS[name]
        self.name = name
        self.model = getattr(models, kind.maker)(folder, **kind.model)
        self.stock = serve(
            self.model, scheduler=None, blocks=200, max_model_tokens=1024, **kind.engine
        )
        with pensieve_messages() as self.messages:
            self.ours = serve(
                self.model,
                blocks=33,
                host_blocks=200,
                block_bytes=kind.block_bytes,
                max_model_tokens=1024,
                settings={"verify_swaps": True},
                **kind.engine,
            )
        self.seed = 0

    def prompt(self) -> list[int]:
        """One that nobody has seen, and that ours has served once."""
        from vllm_pensieve.testing.served import tokens

        self.seed += 1
        prompt = tokens(LENGTH, seed=self.seed)
        self.ours.serve([prompt])
        return prompt

    def drop(self, prompt, lost) -> None:
        """From both memories; what is free is poisoned."""
        host = self.ours.scheduler.swapper.host
        keys = self.ours.keys(prompt)
        slots = [host.find(keys[index]) for index in lost]
        host.discard([slot for slot in slots if slot is not None])
        self.ours.drop(prompt, lost)

    def push_out(self) -> None:
        """Fill all of GPU memory with another prompt."""
        from vllm_pensieve.testing.served import tokens

        self.seed += 1
        self.ours.serve([tokens(32 * BLOCK - 4, seed=1000 + self.seed)], output_tokens=1)

    def answers(self, prompt):
        """Ours and stock vLLM's."""
        return self.ours.serve([prompt])[0], self.stock.serve([prompt])[0]

    def counted(self, prompt):
        """Serve a prompt, see that it is answered as by stock vLLM; its tokens by source."""
        from vllm_pensieve.testing.served import largest_logprob_difference, token_ids

        before = self.ours.prompt_tokens
        output, want = self.answers(prompt)
        assert token_ids(output) == token_ids(want)
        assert largest_logprob_difference(output, want) < 1e-5
        self.ours.assert_nothing_left()
        return {source: count - before[source] for source, count in self.ours.prompt_tokens.items()}


@pytest.fixture(scope="module", params=KINDS)
def family(request, serve, tmp_path_factory):
    return Family(request.param, tmp_path_factory.mktemp(request.param), serve)


@pytest.mark.parametrize("lost", HOLES.values(), ids=HOLES)
def test_holes_are_recovered(family, lost):
    prompt = family.prompt()
    family.drop(prompt, lost)
    kept = [index for index in range(13) if index not in lost]
    end = kept[-1] + 1
    assert family.counted(prompt) == {
        "resident": len(kept) * BLOCK,
        "swapped": 0,
        "recovered": (end - len(kept)) * BLOCK,
        "new": LENGTH - end * BLOCK,
    }


def test_a_prompt_comes_back_from_host_memory(family):
    prompt = family.prompt()
    family.push_out()
    assert family.ours.cached_blocks(prompt) == [None] * 13
    assert family.counted(prompt) == {
        "resident": 0,
        "swapped": 13 * BLOCK,
        "recovered": 0,
        "new": LENGTH - 13 * BLOCK,
    }


def test_resident_swapped_recovered_and_new_in_one_prompt(family):
    prompt = family.prompt()
    family.push_out()
    family.ours.serve([prompt[: 4 * BLOCK + 1]], output_tokens=1)
    family.drop(prompt, [1, 8, 9, 10])
    assert family.counted(prompt) == {
        "resident": 3 * BLOCK,
        "swapped": 6 * BLOCK,
        "recovered": 4 * BLOCK,
        "new": LENGTH - 13 * BLOCK,
    }


def test_the_log_says_how_prefixes_are_kept(family):
    (line,) = [message for message in family.messages if "recovery" in message]
    assert "recovery on" in line
    assert ("also those with a sliding window" in line) == (family.name in ("gemma2", "gemma4"))


def test_a_conversation_in_the_plain_template_uses_the_turn_before(family):
    from vllm_pensieve.models import PLAIN_CHAT_TEMPLATE
    from vllm_pensieve.testing.served import greedy, token_ids

    def chat(served, messages):
        (output,) = served.llm.chat(
            messages, greedy(8), chat_template=PLAIN_CHAT_TEMPLATE, use_tqdm=False
        )
        return output

    messages = [{"role": "user", "content": "Once more. " * 20}]
    first = chat(family.ours, messages)
    messages.append({"role": "assistant", "content": first.outputs[0].text})
    messages.append({"role": "user", "content": "And again?"})
    second = chat(family.ours, messages)
    assert second.prompt_token_ids[: len(first.prompt_token_ids)] == first.prompt_token_ids
    assert second.num_cached_tokens >= len(first.prompt_token_ids) // BLOCK * BLOCK
    assert token_ids(second) == token_ids(chat(family.stock, messages))


# -- controls: these tests can fail


def test_computed_at_wrong_positions_a_hole_makes_the_answer_wrong(family, monkeypatch):
    from vllm_pensieve.testing.breaks import compute_holes_as_if_at_the_start

    runner = family.ours.model_runner
    monkeypatch.setattr(runner, "_model_forward", runner._model_forward)  # is put back after
    compute_holes_as_if_at_the_start(runner, 2 * BLOCK)
    prompt = family.prompt()
    family.drop(prompt, [5, 6])
    assert differ(*family.answers(prompt))
    family.drop(prompt, range(13))  # nobody shall find it


def test_without_the_loads_the_answer_is_wrong(family, monkeypatch):
    monkeypatch.setattr(family.ours.connector.worker.copier, "load", lambda pairs: None)
    prompt = family.prompt()
    family.push_out()
    assert differ(*family.answers(prompt))


def differ(output, want) -> bool:
    """Whether two answers are far from equal: in their tokens, or a hundred times what is allowed."""
    from vllm_pensieve.testing.served import largest_logprob_difference, token_ids

    largest = largest_logprob_difference(output, want)
    return token_ids(output) != token_ids(want) or largest > 1e-3


def test_a_worker_that_judges_by_the_group_s_own_type_is_refused_at_start(
    serve, tmp_path, monkeypatch
):
    """On a worker such a group has a type of its own; the scheduler's copy has its first layer's."""
    from vllm.v1.kv_cache_interface import UniformTypeKVCacheSpecs

    from vllm_pensieve.swap import connector
    from vllm_pensieve.testing.models import make_gemma4

    def by_type(groups):
        return "a new type" if type(groups[0].kv_cache_spec) is UniformTypeKVCacheSpecs else None

    monkeypatch.setattr(connector, "why_not_recoverable", by_type)
    kind = KINDS["gemma4"]
    with pytest.raises(
        connector.HostTierMismatchError, match=r"counts on 200 .* holds 0, because a new"
    ):
        serve(
            make_gemma4(tmp_path, **kind.model),
            blocks=33,
            host_blocks=200,
            block_bytes=kind.block_bytes,
            max_model_tokens=1024,
            **kind.engine,
        )


# -- Gemma 2 as vLLM serves it by default


@pytest.mark.parametrize("host_cache_gib", [None, 0.01])
def test_with_windows_of_their_own_prefixes_are_plain(serve, tmp_path, host_cache_gib):
    from vllm_pensieve.testing.models import make_gemma2
    from vllm_pensieve.testing.served import pensieve_messages, token_ids, tokens

    model = make_gemma2(tmp_path, WINDOW)
    settings = {"host_cache_gib": host_cache_gib} if host_cache_gib else {}
    stock = serve(model, scheduler=None, blocks=90, max_model_tokens=1024)
    with pensieve_messages() as messages:
        ours = serve(model, blocks=90, max_model_tokens=1024, settings=settings)
    assert sum("--disable-hybrid-kv-cache-manager" in message for message in messages) == 1
    assert ours.connector is None or ours.connector.num_slots == 0
    first = [tokens(LENGTH, seed=i) for i in range(3)]
    second = [prompt + tokens(50, seed=10) for prompt in first]
    for batch in (first, second, first):
        outputs, want = ours.serve(batch), stock.serve(batch)
        assert [token_ids(output) for output in outputs] == [token_ids(output) for output in want]
        assert [o.num_cached_tokens for o in outputs] == [o.num_cached_tokens for o in want]
    assert outputs[0].num_cached_tokens > 0
