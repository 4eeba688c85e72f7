"""Sessions whose input comes in pieces: no block under a wrong identity in either memory, and no wrong answer."""

import random

import pytest

KINDS = [(1, "v1"), (1, "v2"), (2, "v1"), (2, "v2")]
every_kind = pytest.mark.parametrize(("steps_in_flight", "runner"), KINDS)


class Session:
    """One resumable request of a world."""

    def __init__(self, world, name):
        self.world, self.name, self.request = world, name, None

    @property
    def kept(self):
        """Tokens that the next piece of input follows: vLLM drops the last sampled one, which was not computed."""
        return (
            self.request.all_token_ids[: self.request.num_computed_tokens] if self.request else []
        )

    def say(self, piece, output_tokens, stop_at_once=False):
        """Give the next piece of input and wait for the reply, which `stop_at_once` ends after one token."""
        from vllm.sampling_params import SamplingParams

        world = self.world
        piece_of_input = world.request(piece, output_tokens, name=self.name, resumable=True)
        if stop_at_once:
            first = world.device.answer([*self.kept, *piece], 1)
            piece_of_input.sampling_params = SamplingParams(
                ignore_eos=True, max_tokens=output_tokens, stop_token_ids=first
            )
        if self.request is None:
            self.request = piece_of_input
        else:
            world.requests.pop()  # its tokens become the session's
        world.scheduler.add_request(piece_of_input)
        self._wait()
        said = list(self.request.output_token_ids)
        assert len(said) == (1 if stop_at_once else output_tokens)
        assert said == world.device.answer(self.request.prompt_token_ids, len(said))

    def _wait(self):
        from vllm.v1.request import RequestStatus

        for _ in range(300):
            self.world.step()
            if self.request.status == RequestStatus.WAITING_FOR_STREAMING_REQ:
                break
        else:
            raise AssertionError(f"still {self.request.status}")
        while self.world.in_flight:
            self.world.step()

    def end(self):
        self.world.scheduler.add_request(self.world.request([1], name=self.name))
        self.world.requests.pop()
        self.world.drain()


def serve_again(world, tokens):
    """An ordinary request with a session's tokens finds only what is theirs."""
    request = world.serve([*tokens, 1], output_tokens=3)
    world.assert_answered(request)


@every_kind
@pytest.mark.parametrize("edge", [-1, 0, 1])
def test_pieces_that_end_at_a_block_s_edge(make_world, steps_in_flight, runner, edge):
    from vllm_pensieve.testing.world import tokens

    world = make_world(steps_in_flight=steps_in_flight, runner=runner, host_blocks=100)
    session = Session(world, "session")
    for piece in range(4):
        session.say(
            tokens(48 + edge, seed=piece), output_tokens=1 + piece % 2, stop_at_once=piece == 2
        )
        assert not world.falsely_cached_blocks()
    said = list(session.kept)
    session.end()
    serve_again(world, said)
    world.swap_out()
    serve_again(world, said)
    world.assert_sound()
    world.assert_nothing_left()


@every_kind
@pytest.mark.parametrize("host_blocks", [0, 60])
def test_sessions_among_other_traffic(make_world, steps_in_flight, runner, host_blocks):
    """What a session dropped is found by nobody, also after it has been in host memory and after holes."""
    from vllm_pensieve.testing.world import tokens

    world = make_world(
        blocks=160, host_blocks=host_blocks, steps_in_flight=steps_in_flight, runner=runner,
        step_tokens=40, settings={"load_cost_flops_per_byte": 1e-9},
    )  # fmt: skip
    choose = random.Random(7)
    sessions = [Session(world, f"session-{i}") for i in range(3)]
    history = tokens(100, seed=0)
    for turn in range(18):
        session = choose.choice(sessions)
        piece = tokens(choose.choice([1, 7, 16, 32, 45]), seed=turn)
        if session.request is None:
            piece = [
                *history,
                *piece,
            ]  # a first input that others have sent before, maybe with holes now
        session.say(piece, choose.choice([1, 2, 15, 17]), stop_at_once=turn % 5 == 4)
        idle = [b.block_id for b in world.pool.blocks if b.block_hash and not b.ref_cnt]
        world.pool.evict_blocks({block for block in idle if choose.random() < 0.2})
        if host_blocks and turn % 6 == 5:
            world.swap_out()
        serve_again(world, choose.choice([history, list(session.kept)]))
        assert not world.falsely_cached_blocks()
        assert not host_blocks or not world.falsely_stored_slots()
    kept = [list(session.kept) for session in sessions if session.request]
    for session in sessions:
        if session.request:
            session.end()
    for said in kept:
        serve_again(world, said)
    world.assert_sound()
    world.assert_nothing_left()
