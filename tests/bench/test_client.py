"""What the client makes of a stream, and of servers that do not answer as asked: a failure each, never an exception."""

import asyncio
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from openai.types.chat import ChatCompletionChunk

from vllm_pensieve.bench.client import Replay, Reply, RequestFailed, Target, common_length, replay
from vllm_pensieve.bench.exchanges import Exchange, text_digest
from vllm_pensieve.workloads.conversations import Conversation, Turn

TALK = Conversation("s", (Turn("one?", 4, 8, 0.0), Turn("two?", 4, 8, 0.0)))
Handle = Callable[[http.server.BaseHTTPRequestHandler], None]


def chunk(
    token_ids: list[int] | None = None, prompt: list[int] | None = None, **delta: object
) -> ChatCompletionChunk:
    choice = {"index": 0, "delta": delta, "finish_reason": None, "token_ids": token_ids}
    fields = {
        "id": "x",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "prompt_token_ids": prompt,
    }
    return ChatCompletionChunk.construct(**fields | {"object": "chat.completion.chunk"})


def test_the_first_token_counts_whatever_channel_it_is_in():
    reply = Reply()
    assert not reply.take(chunk(prompt=[1, 2, 3], role="assistant", content=""))
    assert reply.take(chunk([7], content=""))  # the first half of a character
    assert reply.take(chunk([8, 9], reasoning="hm"))
    assert reply.take(chunk(None, content="so"))
    assert (reply.reasoning, reply.content) == ("hm", "so")
    assert reply.computed_token_ids == [1, 2, 3, 7, 8]


def test_thoughts_are_sent_back_for_the_template_to_decide_and_are_in_the_digest():
    assert Reply("so").message() == {"role": "assistant", "content": "so"}
    assert Reply("so").digest == text_digest("so")
    thoughtful = Reply("so", "hm")
    assert thoughtful.message() == {"role": "assistant", "content": "so", "reasoning": "hm"}
    assert (
        len({Reply("so").digest, thoughtful.digest, Reply("", "hm").digest, Reply("hm").digest})
        == 3
    )
    assert Reply("", "hm").digest != Reply("", "ha").digest


def test_a_call_of_a_tool_fails_the_turn():
    with pytest.raises(RequestFailed, match="the model called a tool"):
        Reply().take(chunk([7], tool_calls=[{"index": 0, "function": {"name": "look"}}]))


@pytest.mark.parametrize(
    ("first", "second", "length"),
    [([1, 2], [1, 2, 3], 2), ([1, 2, 3], [1, 2], 2), ([1, 2, 3], [1, 9, 3], 1), ([], [1], 0), ([5], [6], 0)],
)  # fmt: skip
def test_how_much_two_prompts_have_in_common(first, second, length):
    assert common_length(first, second) == length


@contextmanager
def answering(handle: Handle) -> Iterator[str]:
    """The address of a proxy that answers every request this way."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            handle(self)

        def log_message(self, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def body(status: int, content_type: str, text: bytes, length: int | None = None) -> Handle:
    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Type", content_type)
        request.send_header("Content-Length", str(len(text) if length is None else length))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(text)

    return handle


EVENTS = "text/event-stream"
PIECE = chunk([1], content="x").to_json(indent=None).encode()


@pytest.mark.parametrize(
    ("handle", "said"),
    [
        (body(401, "application/json", b'{"error": {"message": "who are you"}}'), "401"),
        (body(500, "text/html", b"<h1>no</h1>"), "500"),
        (body(200, EVENTS, b"data: " + PIECE + b"\n\n", 5000), "peer closed connection"),
        (
            body(200, EVENTS, b"data: " + PIECE + b"\n\n"),
            "the stream ended early, without its usage",
        ),
        (body(200, EVENTS, b"data: <h1>no</h1>\n\n"), "JSON"),
        (body(200, "text/html", b"<h1>no</h1>"), "the stream ended early, without its usage"),
    ],
)
def test_a_turn_without_an_answer_is_a_failure_and_the_rest_is_not_sent(handle, said):
    records: list[Exchange] = []
    with answering(handle) as url:
        asyncio.run(replay(Target(url, "m", 0), Replay([TALK], 1, records.append)))
    first, second = records
    assert said in (first.error or "")
    assert second.error == "not sent: turn 1 of this session failed"
    assert (first.turn, second.turn) == (1, 2)
