"""Conversations by session id, answered by a vLLM engine of this process."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from vllm_pensieve.errors import UsageError
from vllm_pensieve.serving.engine import Engine
from vllm_pensieve.serving.history import NEXT_USER, History, Prompt
from vllm_pensieve.serving.interrupts import interrupts_held_back
from vllm_pensieve.serving.options import ServerOptions, check_reply_length
from vllm_pensieve.serving.recovery import Recovery
from vllm_pensieve.serving.statistics import STATES, Statistics, mean_by_turn
from vllm_pensieve.workloads.text import whole_characters

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

    from vllm_pensieve.scheduler.inspection import Inspection


HALF_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class InputTooLong(UsageError):
    """The conversation with this input does not fit the context; the session is as it was."""


@dataclass(frozen=True, eq=False, repr=False)
class Reply(str):
    """The text of one turn, with what came of it.

    turn: from 1. cached_tokens: tokens of the prompt that were not computed. finish_reason: vLLM's, `stop` or
    `length`, and `abort` when it was stopped on the way. Times in seconds from the request on.
    """

    text: str
    session_id: str
    turn: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft_s: float | None
    e2e_s: float
    finish_reason: str

    def __new__(cls, text: str, *_: object, **__: object) -> Self:
        return super().__new__(cls, text)


@dataclass
class Answer:
    """A reply that is being generated. `reply` is there when it is done.

    most_tokens: of prompt and reply together.
    """

    request_id: str
    session_id: str
    prompt: Prompt
    begun_s: float
    most_tokens: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    unread: str = ""
    cached_tokens: int = 0
    ttft_s: float | None = None
    reply: Reply | None = None


class Server:
    """Answers the turns of conversations; the history of each is kept here.

    Requests of several threads, or several answers begun before the first is read, are served together by vLLM's
    own batching: whoever waits moves all of them on. Use it as a context manager, or call `close`. A process may have
    several, which take turns step by step, because vLLM has its KV connector once in a process.

    notes: what one should know of how it was started. An error inside a step of the engine closes the server.
    """

    _lock: ClassVar[threading.RLock] = threading.RLock()
    """Held while an engine of this process works, whichever server's it is."""

    def __init__(self, options: ServerOptions) -> None:
        """Start the engine, which takes seconds.

        Raises:
            UsageError: the engine cannot be made as asked.
        """
        self.options = options
        with self._lock:
            engine = Engine(options)
            try:
                self._tokenizer = engine.vllm.get_tokenizer()
            except Exception as error:
                engine.stop()
                raise UsageError(f"model {options.model!r} has no tokenizer: {error}") from error
        self.notes = engine.notes
        self._engine: Engine | None = engine
        self._sessions: dict[str, History] = {}
        self._answers: dict[str, Answer] = {}
        self._names = (f"turn-{number}" for number in itertools.count())
        self._times: list[tuple[int, float]] = []
        self._stock_tokens = {"resident": 0, "swapped": 0, "recovered": 0, "new": 0}
        self._requests = 0

    # -- requests

    def process_request(
        self, session_id: str, text: str, max_new_tokens: int | None = None
    ) -> Reply:
        """Answer the next turn of a session, which begins with its first one.

        Raises:
            UsageError: an argument cannot be used, or the session is being answered already.
            InputTooLong: the conversation would outgrow the context.
        """
        answer = self.begin(session_id, text, max_new_tokens)
        try:
            while answer.reply is None:
                self.advance(answer)
        finally:
            self.cancel(answer)
        return answer.reply

    def stream(
        self, session_id: str, text: str, max_new_tokens: int | None = None
    ) -> Generator[str, None, None]:
        """Answer the next turn piece by piece. Pieces may be empty: there is one a step of the engine.

        Closing the iterator stops the answer; what was said so far stays in the history. Raises as `process_request`,
        with the first piece.
        """
        answer = self.begin(session_id, text, max_new_tokens)
        try:
            while answer.reply is None or answer.unread:
                yield self.advance(answer)
        finally:
            self.cancel(answer)

    def begin(self, session_id: str, text: str, max_new_tokens: int | None = None) -> Answer:
        """Queue the next turn of a session; `advance` moves it on. Raises as `process_request`."""
        if not session_id or not isinstance(session_id, str):
            raise UsageError(f"session_id is {session_id!r}; a non-empty text is expected")
        if not isinstance(text, str) or not text.strip():
            raise UsageError("the input is empty; say something")
        text = whole_characters(text)
        length = self.options.max_new_tokens if max_new_tokens is None else max_new_tokens
        check_reply_length(length)
        begun_s = time.perf_counter()
        with self._lock:
            engine = self._running_engine()
            if any(answer.session_id == session_id for answer in self._answers.values()):
                raise UsageError(f"session {session_id!r} is being answered; wait for its reply")
            history = self._sessions.get(session_id) or History(self._tokenizer)
            prompt = history.ask(text)
            room = self.context_tokens - len(prompt.token_ids)
            if room < 1:
                raise InputTooLong(
                    f"the conversation has {len(prompt.token_ids):,} tokens with this input, the context holds "
                    f"{self.context_tokens:,} and the reply needs at least one; the session is unchanged: "
                    "shorten the input, or begin another session"
                )
            max_tokens = min(length, room)
            most_tokens = len(prompt.token_ids) + max_tokens
            answer = Answer(next(self._names), session_id, prompt, begun_s, most_tokens)
            under_way = sum(other.most_tokens for other in self._answers.values())
            seeded = engine.may_have_seed(most_tokens + under_way)
            engine.vllm.add_request(
                answer.request_id,
                {"prompt_token_ids": list(prompt.token_ids)},
                self._sampling(max_tokens, history, seeded),
                session_id=session_id,
            )
            self._sessions[session_id] = history
            self._answers[answer.request_id] = answer
            return answer

    def advance(self, answer: Answer) -> str:
        """Move all requests on by a step unless this answer has text to read; return that text, maybe none."""
        with self._lock:
            if not answer.unread and answer.reply is None:
                self._step()
            piece, answer.unread = answer.unread, ""
            return piece

    def _step(self) -> None:
        """One step of the engine, whole: a step broken off would leave blocks in the cache that nothing was written to.

        After an error inside it nothing in the cache can be trusted, so the engine is ended.
        """
        engine = self._running_engine()
        with interrupts_held_back():
            try:
                for output in engine.step():
                    self._take(output)
            except BaseException:
                self.close()
                raise

    def cancel(self, answer: Answer) -> None:
        """Stop an answer; nothing if it is done. What was said so far stays in the history."""
        with self._lock:
            if answer.reply is not None:
                return
            self._running_engine().vllm.abort_request([answer.request_id])
            # vLLM holds back text that may become part of a character or of a stop string.
            said = self._tokenizer.decode(answer.token_ids, skip_special_tokens=True)
            said = said.rstrip(HALF_A_CHARACTER)
            if said.startswith(answer.text):
                answer.unread += said[len(answer.text) :]
                answer.text = said
            self._finish(answer, "abort")

    def _sampling(self, max_tokens: int, history: History, seeded: bool) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=self.options.temperature,
            seed=self.options.seed if self.options.temperature and seeded else None,
            max_tokens=max_tokens,
            stop=None if history.has_template or self.options.ignore_eos else [NEXT_USER],
            ignore_eos=self.options.ignore_eos,
            output_kind=RequestOutputKind.DELTA,
        )

    def _take(self, output: RequestOutput) -> None:
        answer = self._answers.get(output.request_id)
        if answer is None:
            return
        completion = output.outputs[0]
        if answer.ttft_s is None and completion.token_ids:
            answer.ttft_s = time.perf_counter() - answer.begun_s
            answer.cached_tokens = output.num_cached_tokens or 0
        answer.text += completion.text
        answer.unread += completion.text
        answer.token_ids += completion.token_ids
        if output.finished:
            by_string = isinstance(completion.stop_reason, str)
            ends = completion.finish_reason == "stop" and not by_string
            self._finish(answer, completion.finish_reason or "stop", by_string, ends)

    def _finish(
        self, answer: Answer, reason: str, by_string: bool = False, ends: bool = False
    ) -> None:
        """by_string: a stop string is among the tokens and not in the text. ends: the last token ends the reply."""
        history = self._sessions[answer.session_id]
        del self._answers[answer.request_id]
        spoken = answer.token_ids[:-1] if ends else answer.token_ids
        history.answered(answer.prompt, answer.text, spoken, stands_for_reply=not by_string)
        prompt_tokens = len(answer.prompt.token_ids)
        answer.reply = Reply(
            session_id=answer.session_id,
            turn=history.turns,
            text=answer.text,
            prompt_tokens=prompt_tokens,
            cached_tokens=answer.cached_tokens,
            output_tokens=len(answer.token_ids),
            ttft_s=answer.ttft_s,
            e2e_s=time.perf_counter() - answer.begun_s,
            finish_reason=reason,
        )
        self._requests += 1
        if answer.ttft_s is not None:
            self._times.append((history.turns, answer.ttft_s))
            self._stock_tokens["resident"] += answer.cached_tokens
            self._stock_tokens["new"] += prompt_tokens - answer.cached_tokens

    # -- state

    @property
    def context_tokens(self) -> int:
        """Tokens that a conversation may have, its reply included."""
        return int(self._running_engine().vllm.model_config.max_model_len)

    @property
    def inspection(self) -> Inspection:
        """The engine's scheduler, to be looked into."""
        from vllm_pensieve.scheduler.inspection import Inspection

        return Inspection(self._running_engine().vllm)

    def _running_engine(self) -> Engine:
        """The engine, while there is one."""
        if self._engine is None:
            raise UsageError("the server is closed")
        return self._engine

    def token_ids(self, session_id: str) -> list[int]:
        """Tokens of a session so far; UsageError if there is none of this name."""
        if session_id not in self._sessions:
            raise UsageError(
                f"no session {session_id!r}; the sessions are: {', '.join(self._sessions) or 'none yet'}"
            )
        return self._sessions[session_id].token_ids

    def statistics(self) -> Statistics:
        """What was done so far, and where the conversations' blocks are now."""
        with self._lock:
            inspection = self.inspection
            states = [
                state
                for history in self._sessions.values()
                # The last token was generated and never read: it has no KV yet.
                for state in inspection.block_states(history.token_ids[:-1])
            ]
            return Statistics(
                mode=self.options.mode,
                sessions=len(self._sessions),
                requests=self._requests,
                prompt_tokens=inspection.prompt_tokens() or dict(self._stock_tokens),
                conversation_blocks={state: states.count(state) for state in STATES},
                gpu_blocks=inspection.gpu_blocks,
                used_gpu_blocks=inspection.used_gpu_blocks,
                cpu_blocks=inspection.cpu_blocks,
                used_cpu_blocks=inspection.used_cpu_blocks,
                block_bytes=inspection.block_bytes,
                evictions=inspection.evictions(),
                recoveries=inspection.recoveries(),
                ttft_by_turn_s=mean_by_turn(self._times),
                stateless=inspection.stateless,
            )

    def recovery(self, session_id: str) -> Recovery:
        """What the next turn of a session would compute again of what was dropped.

        Raises:
            UsageError: there is no such session, or the plugin does not serve it: it is off, or has stepped back.
        """
        with self._lock:
            token_ids, inspection = self.token_ids(session_id), self.inspection
            if not inspection.adopted:
                raise UsageError(
                    f"nothing is recovered in mode {self.options.mode} with this model: the plugin is off or steps back"
                )
            plan = inspection.restore_plan(token_ids[:-1])
            return Recovery.of(plan, inspection.restore_costs, inspection.costs_in_seconds)

    def get_statistics_str(self) -> str:
        """The statistics as lines of text."""
        return str(self.statistics())

    def forget(self, session_id: str) -> None:
        """Forget a session's history; its blocks stay in the cache as long as they are worth it."""
        with self._lock:
            self.token_ids(session_id)
            if any(answer.session_id == session_id for answer in self._answers.values()):
                raise UsageError(f"session {session_id!r} is being answered; wait for its reply")
            del self._sessions[session_id]

    def reset(self) -> None:
        """Drop everything that is cached, in GPU and in host memory; histories stay.

        Raises:
            UsageError: a session is being answered.
        """
        with self._lock:
            engine = self._running_engine()
            if self._answers:
                raise UsageError(
                    f"{len(self._answers)} sessions are being answered; nothing was reset"
                )
            if not engine.reset():
                raise RuntimeError("vLLM did not reset its prefix cache although nothing runs")

    # -- the end

    def close(self) -> None:
        """End the engine; answers that were not done end as `abort`. Safe to call twice."""
        with self._lock:
            if self._engine is None:
                return
            for answer in list(self._answers.values()):
                self._finish(answer, "abort")
            engine, self._engine = self._engine, None
            engine.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def create_server(
    mode: str = "pensieve", model: str = "demo", *, model_name: str | None = None, **options: Any
) -> Server:
    """Make a server in this process; `options` are those of ServerOptions.

    model_name: another name of `model`, as the Pensieve guide has it.

    Raises:
        UsageError: an option is unknown or cannot be used.
    """
    if model_name is not None:
        if model not in ("demo", model_name):
            raise UsageError(
                f"model is {model!r} and model_name is {model_name!r}; give one of them"
            )
        model = model_name
    known = ServerOptions.__dataclass_fields__
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UsageError(f"unknown option {', '.join(unknown)}; choose one of: {', '.join(known)}")
    if isinstance(options.get("vllm_options"), str):
        raise UsageError(
            f"vllm_options is {options['vllm_options']!r}; a list of words is expected"
        )
    if "vllm_options" in options:
        options["vllm_options"] = tuple(options["vllm_options"])
    return Server(ServerOptions(mode=mode, model=model, **options))
