"""Claims about conversations served by an engine of this process: what is computed, kept, stopped and refused."""

import os
import re
import signal
import threading

import pytest

from vllm_pensieve.errors import UsageError
from vllm_pensieve.serving import create_server
from vllm_pensieve.serving.chat import Chat
from vllm_pensieve.serving.server import InputTooLong

pytestmark = pytest.mark.engine

FLOAT32 = ("--dtype", "float32")
TINY_BLOCK_GB = 64 * 1024 / 1e9
TEXT = "the river runs under the old bridge and past the quiet market of the town, "


SMALL = (*FLOAT32, "--max-model-len", "640")


@pytest.fixture(scope="module")
def stock(tiny_model):
    """Replies of stock vLLM to `converse`, and what its server tells. Before it, a start fails in the middle."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_PENSIEVE_CONFIG", '{"cost_profile": "/no/such/profile.json"}')
        with pytest.raises(UsageError, match="/no/such/profile"):
            create_server(model=str(tiny_model), gpu_cache_gb=0.01, cpu_cache_gb=0.01)
    with create_server(
        mode="vllm",
        model=str(tiny_model),
        gpu_cache_gb=100 * TINY_BLOCK_GB,
        vllm_options=SMALL,
    ) as server:
        return converse(server, sessions=3, turns=3), server.statistics()


@pytest.fixture(scope="module")
def server(tiny_model, stock):
    """GPU memory for 24 blocks, host memory for 16; every kept stretch is jumped over, however short."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_PENSIEVE_CONFIG", '{"step_cost_tokens": 0}')
        made = create_server(
            model=str(tiny_model),
            gpu_cache_gb=25.5 * TINY_BLOCK_GB,
            cpu_cache_gb=16.5 * TINY_BLOCK_GB,
            vllm_options=SMALL,
        )
    with made:
        yield made


def converse(server, sessions: int, turns: int) -> list[str]:
    """Texts of all replies, the sessions taking turns."""
    return [
        server.process_request(f"s{session}", f"{session}{turn} {TEXT * 2}", 8).text
        for turn in range(turns)
        for session in range(sessions)
    ]


def test_the_second_turn_computes_only_what_is_new(server):
    first = server.process_request("two turns", TEXT * 3, 9)
    kept = len(server.token_ids("two turns")) - 1  # the last token has no KV yet
    second = server.process_request("two turns", "and then?", 4)
    assert (first.turn, second.turn) == (1, 2)
    assert first.output_tokens == 9 and first.cached_tokens == 0
    assert second.cached_tokens == kept // 32 * 32
    assert second.prompt_tokens == kept + 1 + len(b"\nUser: and then?\nAssistant:")
    assert 0 < second.ttft_s <= second.e2e_s


def test_answers_are_those_of_stock_vllm_whatever_was_evicted_swapped_or_recovered(server, stock):
    before = server.statistics()
    ours = converse(server, sessions=3, turns=3)
    after = server.statistics()
    replies, told = stock
    assert ours == replies
    assert after.prompt_tokens["swapped"] > before.prompt_tokens["swapped"]
    assert after.recoveries > before.recoveries
    assert after.evictions["host"] > before.evictions["host"]
    assert after.conversation_blocks["swapped"] and after.conversation_blocks["dropped"]
    assert (after.gpu_blocks, after.cpu_blocks) == (24, 16)
    assert after.conversation_blocks["resident"] <= after.used_gpu_blocks <= 24
    assert after.used_cpu_blocks == 16
    assert told.evictions is None and told.gpu_hit_rate == 0.0
    assert told.stateless and not after.stateless
    assert told.prompt_tokens["new"] == sum(told.prompt_tokens.values()) > 0
    for session in range(3):
        server.forget(f"s{session}")


def test_what_the_next_turn_will_recover_is_told_before_and_is_what_it_recovers(server):
    """Of a session whose blocks were all dropped nothing is recovered; of one with a hole, the hole."""
    server.reset()
    server.process_request("to recover", TEXT * 4, 8)
    assert str(server.recovery("to recover")).startswith("No recovery needed")
    tokens = server.token_ids("to recover")
    pool = server.inspection.scheduler.kv_cache_manager.block_pool
    blocks = server.inspection.cached_block_ids(tokens)
    pool.evict_blocks({blocks[1], blocks[2], blocks[5]})
    plan = server.recovery("to recover")
    assert plan.runs == ((32, 96), (160, 192)) and plan.tokens == 96
    assert plan.kept_tokens == len(tokens[:-1]) // 32 * 32
    assert 0 < plan.cost < plan.cost_without and not plan.in_seconds
    assert "2 dropped runs, 96 tokens, " in str(plan) and " GFLOP instead of " in str(plan)
    before = server.statistics().prompt_tokens["recovered"]
    server.process_request("to recover", "and then?", 4)
    assert server.statistics().prompt_tokens["recovered"] - before == plan.tokens


def test_a_second_server_of_the_process_has_its_own_host_tier_and_leaves_the_first_alone(
    server, tiny_model
):
    """Each loads what it swapped itself, in turn; the one that ends first takes nothing along."""
    alone = converse(server, sessions=3, turns=2)
    with create_server(
        model_name=str(tiny_model),
        gpu_cache_gb=25.5 * TINY_BLOCK_GB,
        cpu_cache_gb=16.5 * TINY_BLOCK_GB,
        vllm_options=SMALL,
    ) as second:
        before = server.statistics().prompt_tokens["swapped"]
        turns = [
            (
                server if i % 2 else second,
                f"in turn {i // 2 % 3}",
                f"{i // 2 % 3}{i // 6} {TEXT * 2}",
            )
            for i in range(12)
        ]
        replies = [one.process_request(session, text, 8) for one, session, text in turns]
        assert replies[::2] == replies[1::2] == alone
        for i in range(3):
            tokens = server.token_ids(f"s{i}")
            assert second.token_ids(f"in turn {i}") == server.token_ids(f"in turn {i}") == tokens
        assert second.statistics().prompt_tokens["swapped"] > 0
        assert server.statistics().prompt_tokens["swapped"] > before
    assert server.process_request("afterwards", f"00 {TEXT * 2}", 8) == alone[0]
    for session in range(3):
        server.forget(f"s{session}")
        server.forget(f"in turn {session}")


def test_reset_clears_both_tiers_and_keeps_the_histories(server):
    server.process_request("reset", TEXT * 3, 4)
    assert server.statistics().conversation_blocks["resident"]
    server.reset()
    blocks = server.statistics().conversation_blocks
    assert (blocks["resident"], blocks["swapped"]) == (0, 0) and blocks["dropped"] > 0
    assert (server.statistics().used_gpu_blocks, server.statistics().used_cpu_blocks) == (0, 0)
    assert server.inspection.free_blocks == 24
    again = server.process_request("reset", "go on", 4)
    assert (again.turn, again.cached_tokens) == (2, 0)


def test_several_answers_at_once_are_served_together(server):
    answers = [server.begin(f"at once {i}", TEXT, 6) for i in range(3)]
    with pytest.raises(UsageError, match="3 sessions are being answered"):
        server.reset()
    server.advance(answers[0])
    assert len(server.inspection.scheduler.running) == 3
    replies = {}

    def read(answer) -> None:
        while answer.reply is None:
            server.advance(answer)
        replies[answer.session_id] = answer.reply.output_tokens

    threads = [threading.Thread(target=read, args=(answer,)) for answer in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert replies == {f"at once {i}": 6 for i in range(3)}


def test_a_stopped_answer_stays_in_the_history_and_leaves_no_block_in_use(server):
    pieces = server.stream("stopped", TEXT, 50)
    for _ in range(4):
        next(pieces)
    pieces.close()
    assert not server.inspection.scheduler.requests
    assert server.inspection.free_blocks == 24
    asked = len(f"User: {TEXT}\nAssistant:")
    said = len(server.token_ids("stopped")) - asked
    assert 2 <= said <= 4
    tokens, text = server.token_ids("stopped"), server._sessions["stopped"].ask("go on").text
    whole = server._tokenizer.decode(tokens).rstrip("\N{REPLACEMENT CHARACTER}")
    assert text == f"{whole}\nUser: go on\nAssistant:"
    following = server.process_request("stopped", "go on", 4)
    assert following.turn == 2
    assert following.prompt_tokens == asked + said + len("\nUser: go on\nAssistant:")


def test_streams_that_are_read_in_turn_lose_nothing(server):
    alone = [server.process_request(f"alone {i}", f"{i} {TEXT}", 12).text for i in range(2)]
    streams = [server.stream(f"in turn {i}", f"{i} {TEXT}", 12) for i in range(2)]
    heard = ["", ""]
    for _ in range(3):
        heard[0] += next(streams[0])  # moves both on
    heard[1] = "".join(streams[1])
    heard[0] += "".join(streams[0])
    assert heard == alone


def test_ctrl_c_waits_for_the_step_and_leaves_nothing_half_done(server, monkeypatch):
    expected = server.process_request("undisturbed", TEXT, 6).text
    server.reset()
    step = server._engine.step

    def interrupted_step():
        os.kill(os.getpid(), signal.SIGINT)
        return step()

    with monkeypatch.context() as patch:
        patch.setattr(server._engine, "step", interrupted_step)
        with pytest.raises(KeyboardInterrupt):
            server.process_request("disturbed", TEXT, 6)
    assert not server.inspection.scheduler.requests
    assert server.inspection.free_blocks == 24
    assert server.process_request("afterwards", TEXT, 6).text == expected


def test_one_session_has_one_answer_at_a_time(server):
    answer = server.begin("busy", "hello", 4)
    with pytest.raises(UsageError, match="'busy' is being answered"):
        server.process_request("busy", "hello again", 4)
    with pytest.raises(UsageError, match="'busy' is being answered"):
        server.forget("busy")
    server.cancel(answer)
    assert answer.reply.finish_reason == "abort"
    server.cancel(answer)
    assert server.process_request("busy", "hello again", 4).turn == 2


def test_an_input_longer_than_the_context_is_refused_and_the_session_goes_on(server):
    server.process_request("long", "short", 4)
    before = server.token_ids("long")
    with pytest.raises(InputTooLong, match=r"the context holds 640 .* the session is unchanged"):
        server.process_request("long", "x" * 700)
    assert server.token_ids("long") == before
    last = server.process_request("long", "x" * (640 - len(before) - 25), 50)
    assert last.prompt_tokens + last.output_tokens == 640
    assert (last.turn, last.finish_reason) == (2, "length")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", "hello"), "session_id is ''"),
        ((7, "hello"), "session_id is 7"),
        (("a", " \n"), "the input is empty"),
        (("a", None), "the input is empty"),
        (("a", "hello", 0), "max_new_tokens is 0"),
    ],
)
def test_bad_requests_are_refused(server, arguments, said):
    with pytest.raises(UsageError, match=said):
        server.process_request(*arguments)
    assert not server.inspection.scheduler.requests


def test_half_a_character_is_answered_as_the_replacement_character(server):
    server.process_request("half", "hel\ud83dlo", 4)
    replaced = list("hel\N{REPLACEMENT CHARACTER}lo".encode())
    spelled = server._tokenizer.convert_tokens_to_ids(
        server._tokenizer.tokenize("hel\N{REPLACEMENT CHARACTER}lo")
    )
    assert len(spelled) == len(replaced)
    said = server.token_ids("half")
    assert any(said[i : i + len(spelled)] == spelled for i in range(len(said)))


def test_a_session_that_is_not_there_is_named(server):
    with pytest.raises(UsageError, match="no session 'nobody'"):
        server.forget("nobody")


def test_the_environment_is_as_it_was(server):
    """Another engine of the process may rely on it; the tests' own do."""
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert server.notes == [
        "VLLM_CPU_KVCACHE_SPACE=1 is left out: it would override the size of the KV cache asked for"
    ]


class Terminal:
    """Types lines and reads what is shown; an exception among the lines is raised instead."""

    def __init__(self, *lines) -> None:
        self._lines = iter(lines)
        self.shown: list[str] = []

    def read(self, prompt: str) -> str:
        line = next(self._lines, EOFError())
        self.shown.append(prompt)
        if isinstance(line, BaseException):
            raise line
        return line

    def write(self, text: str) -> None:
        self.shown.append(text)

    @property
    def text(self) -> str:
        return "".join(self.shown)


def test_the_chat_answers_and_knows_its_commands(server):
    terminal = Terminal(
        "hello", "", "stats", "session other", "new", "help", "session", KeyboardInterrupt()
    )
    Chat(server, terminal.read, terminal.write, 5, session="talk").run()
    assert server.token_ids("talk")
    assert "mode              pensieve\nrequests  " in terminal.text
    assert "conversation other\n" in terminal.text and "conversation chat-2\n" in terminal.text
    assert "(exit or Ctrl-D leaves)" in terminal.text
    assert terminal.text.endswith(">>> \n")
    with pytest.raises(UsageError):  # nothing was said in it
        server.token_ids("other")


def test_each_turn_of_the_chat_ends_with_its_times_and_what_was_cached(server):
    server.reset()
    terminal = Terminal(TEXT, TEXT, "session second", TEXT, "exit")
    Chat(server, terminal.read, terminal.write, 5, session="first").run()
    lines = [line for line in terminal.text.splitlines() if line.startswith("Turn ")]
    tokens = server.token_ids("first")
    asked = len(f"User: {TEXT.strip()}\nAssistant:")
    times = r"TTFT \d+\.\d{3} s, 5 tokens in \d+\.\d{3} s"
    assert re.fullmatch(rf"Turn 1: {times}, Cache 0 of {asked} prompt tokens \(0%\)", lines[0])
    sent = len(tokens) - 5
    kept = (asked + 4) // 32 * 32
    cached = rf"Cache {kept} of {sent} prompt tokens \({kept / sent:.0%}\)"
    assert re.fullmatch(rf"Turn 2: {times}, {cached}, Speedup \d+\.\d\dx over turn 1", lines[1])
    assert lines[2].startswith("Turn 1: ") and "Speedup" not in lines[2]


def test_half_a_character_is_answered_by_the_chat(server):
    terminal = Terminal("hel\udcfflo", "session \udcff", "hello", "exit")
    Chat(server, terminal.read, terminal.write, 4, session="surrogates").run()
    assert "no valid text" not in terminal.text
    assert server.token_ids("surrogates") and server.token_ids("\udcff")


def test_reset_in_the_chat_clears_both_tiers(server):
    terminal = Terminal(TEXT * 2, "reset", "exit", "never read")
    Chat(server, terminal.read, terminal.write, 4, session="to reset").run()
    blocks = server.statistics().conversation_blocks
    assert (blocks["resident"], blocks["swapped"]) == (0, 0)
    assert "nothing is cached any more" in terminal.text and terminal.text.endswith(">>> ")


def test_ctrl_c_stops_the_answer_and_not_the_chat(server):
    terminal = Terminal("hello", "and then", "exit")
    pressed = []

    def write(text: str) -> None:
        terminal.write(text)
        if not pressed and terminal.shown[-2] == ">>> ":
            pressed.append(text)
            os.kill(os.getpid(), signal.SIGINT)

    Chat(server, terminal.read, write, 30, session="ctrl-c").run()
    assert pressed and terminal.text.count("(stopped)") == 1
    assert len(terminal.text.split("(stopped)")[0]) < 20
    assert server.inspection.free_blocks == 24
    assert "and then" in server._tokenizer.decode(server.token_ids("ctrl-c"))


def test_the_chat_refuses_an_input_that_is_too_long_and_goes_on(server):
    terminal = Terminal("x" * 700, "hello", "exit")
    Chat(server, terminal.read, terminal.write, 4, session="chat long").run()
    assert "the context holds 640" in terminal.text
    assert server.token_ids("chat long")


def test_stats_in_the_chat_after_an_answer_that_was_stopped_before_it_began(server):
    answer = server.begin("stopped first", TEXT, 4)
    server.cancel(answer)
    assert answer.reply.ttft_s is None
    terminal = Terminal("stats", "session chat-2", "new", "exit")
    Chat(server, terminal.read, terminal.write, session="stopped first").run()
    assert "TTFT by turn      1: " in terminal.text
    assert "conversation chat-3\n" in terminal.text  # chat-2 was there already


def test_an_error_inside_a_step_ends_the_server_and_its_answers(server, monkeypatch):
    """The last test of this file: nothing in the cache could be trusted any more."""
    answers = [server.begin(f"broken {i}", TEXT, 4) for i in range(2)]

    def broken_step():
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(server._engine, "step", broken_step)
    with pytest.raises(RuntimeError, match="the device is lost"):
        server.advance(answers[0])
    assert [answer.reply.finish_reason for answer in answers] == ["abort", "abort"]
    server.cancel(answers[1])
    server.close()
    for use in (
        lambda: server.process_request("a", "hello"),
        server.statistics,
        server.reset,
        lambda: server.context_tokens,
    ):
        with pytest.raises(UsageError, match="the server is closed"):
            use()


def test_a_long_input_is_answered_with_sampling_too():
    """vLLM's steps are shorter by default, and on a CPU a seeded prompt that does not fit into one ends its engine."""
    with create_server(model="demo", temperature=0.8, gpu_cache_gb=0.2) as server:
        assert len(server.process_request("long", TEXT * 70, 4)) > 0
        assert server.process_request("another", "and this one?", 4).finish_reason == "length"
