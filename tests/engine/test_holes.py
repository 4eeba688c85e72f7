"""One prompt whose cached prefix lost some blocks, poisoned in memory: as if nothing had been lost."""

import pytest

pytestmark = pytest.mark.engine

BLOCK = 32
SHAPES = {  # prompt tokens, blocks lost
    "none": (13 * BLOCK + 9, []),
    "leading": (13 * BLOCK + 9, [0, 1, 2]),
    "first only": (13 * BLOCK + 9, [0]),
    "middle": (13 * BLOCK + 9, [5, 6]),
    "several": (13 * BLOCK + 9, [1, 4, 5, 9]),
    "every other": (13 * BLOCK + 9, range(0, 13, 2)),
    "all but the last": (13 * BLOCK + 9, range(12)),
    "tail": (13 * BLOCK + 9, [11, 12]),
    "everything": (13 * BLOCK + 9, range(13)),
    "prompt of whole blocks": (13 * BLOCK, [3, 4]),
    "prompt of whole blocks, and its last": (13 * BLOCK, [3, 11, 12]),
    "one token more than whole blocks": (13 * BLOCK + 1, [3, 12]),
    "longer than a step": (60 * BLOCK + 5, [*range(20), *range(25, 50)]),
}


@pytest.fixture(scope="module")
def served(serve):
    return serve()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_with_holes_is_answered_as_by_stock_vllm(served, assert_equal, shape):
    from vllm_pensieve.testing.served import tokens

    length, lost = SHAPES[shape]
    prompt = tokens(length, seed=list(SHAPES).index(shape))
    served.serve([prompt])
    before = served.prompt_tokens
    served.drop(prompt, lost)
    kept = [i for i in range((length - 1) // BLOCK) if i not in lost]
    (output,) = served.serve([prompt])
    assert_equal(output, prompt)
    served.assert_nothing_left()
    counted = {source: count - before[source] for source, count in served.prompt_tokens.items()}
    end = kept[-1] + 1 if kept else 0
    assert counted == {
        "resident": len(kept) * BLOCK,
        "swapped": 0,
        "recovered": (end - len(kept)) * BLOCK,
        "new": length - end * BLOCK,
    }
    assert output.num_cached_tokens == len(kept) * BLOCK


def test_holes_are_filled_for_good(served, assert_equal):
    from vllm_pensieve.testing.served import tokens

    prompt = tokens(13 * BLOCK + 9, seed=50)
    served.serve([prompt])
    served.drop(prompt, [2, 3, 7])
    served.serve([prompt])
    assert None not in served.cached_blocks(prompt)
    (output,) = served.serve([prompt])
    assert output.num_cached_tokens == 13 * BLOCK
    assert_equal(output, prompt)


def test_holes_in_a_continued_conversation(served, assert_equal):
    """The next turn's prompt ends in the last turn's output; a hole may lie in what was decoded."""
    from vllm_pensieve.testing.served import token_ids, tokens

    first = tokens(5 * BLOCK, seed=60)
    (output,) = served.serve([first], output_tokens=2 * BLOCK + 3)
    second = [*first, *token_ids(output), *tokens(40, seed=61)]
    served.drop(second, [1, 5])
    (output,) = served.serve([second])
    assert_equal(output, second)
    assert output.num_cached_tokens == 5 * BLOCK


@pytest.mark.parametrize("settings", [{"step_cost_tokens": 1_000}, {"recovery": False}])
def test_holes_that_are_not_walked_are_exact_too(serve, assert_equal, settings):
    from vllm_pensieve.testing.served import tokens

    served = serve(settings=settings)
    prompt = tokens(20 * BLOCK + 9, seed=70)
    served.serve([prompt])
    served.drop(prompt, [2, 3, 7, 15])
    (output,) = served.serve([prompt])
    assert_equal(output, prompt)
    served.assert_nothing_left()


def test_without_recomputation_the_answer_is_wrong(serve, reference):
    """The control: the poison in the lost blocks is read, so these tests can fail."""
    from vllm_pensieve.testing.breaks import skip_recomputation
    from vllm_pensieve.testing.served import token_ids, tokens

    served = serve()
    skip_recomputation(served.scheduler)
    prompt = tokens(13 * BLOCK + 9, seed=80)
    served.serve([prompt])
    served.drop(prompt, [5, 6])
    (output,) = served.serve([prompt])
    assert token_ids(output) != token_ids(reference(prompt))
