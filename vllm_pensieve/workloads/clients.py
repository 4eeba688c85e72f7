"""The workloads that traces are recorded of, by name."""

from __future__ import annotations

from collections.abc import Callable

from vllm_pensieve.errors import UsageError
from vllm_pensieve.workloads.dataset import Dataset, counted, skipped_remark
from vllm_pensieve.workloads.events import ClientRequests, ClientSpec
from vllm_pensieve.workloads.generated import (
    generated_chats,
    qa_requests,
    summarization_requests,
)
from vllm_pensieve.workloads.sharegpt import (
    HUB_DATASET,
    load_chats,
    multi_turn_requests,
    single_turn_requests,
)
from vllm_pensieve.workloads.tokens import TokenCounter

CHAT_MULTI, CHAT_SINGLE, QA, SUMMARIZATION = "chat_multi", "chat_single", "qa", "summarization"
WORKLOADS = (CHAT_MULTI, CHAT_SINGLE, QA, SUMMARIZATION)
GENERATED = "generated"


class Clients:
    """Makes each workload's requests; conversations are loaded once, when they are first needed.

    dataset: a file, a name on the Hugging Face hub, or `generated`. None: the hub's ShareGPT, and where it cannot be
        had, generated conversations.
    tell: is called with what one should know about the data.
    strict: stop at the first bad record of a data set, instead of skipping it.
    """

    def __init__(
        self,
        dataset: str | None,
        spec: ClientSpec,
        tokens: TokenCounter,
        tell: Callable[[str], None],
        strict: bool = False,
    ) -> None:
        self._dataset = dataset
        self._spec = spec
        self._tokens = tokens
        self._tell = tell
        self._strict = strict
        self._chats: Dataset | None = None

    def requests(self, workload: str) -> ClientRequests:
        """The requests of one of WORKLOADS.

        Raises:
            UsageError: no such workload, the data set is not available, or no request is left of it.
        """
        if workload == CHAT_MULTI:
            made = multi_turn_requests(self._loaded().dialogues, self._spec, self._tokens.count)
        elif workload == CHAT_SINGLE:
            made = single_turn_requests(self._loaded().dialogues, self._spec, self._tokens.count)
        elif workload == QA:
            made = qa_requests(self._spec, self._tokens)
        elif workload == SUMMARIZATION:
            made = summarization_requests(self._spec, self._tokens)
        else:
            raise UsageError(
                f"unknown workload {workload!r}; choose one of: {', '.join(WORKLOADS)}"
            )
        if not made.events and not made.too_long:
            source = self._loaded().source
            raise UsageError(f"{source}: none of its records has a user message with a reply")
        if not made.events:
            raise UsageError(
                f"{workload}: no prompt of at most {self._spec.max_prompt_tokens} tokens in the data "
                f"({counted(made.too_long, 'turn')} too long); raise --max-prompt-tokens"
            )
        if made.too_long:
            self._tell(
                f"{workload}: {counted(made.too_long, 'turn')} left out, because their prompts have more than "
                f"{self._spec.max_prompt_tokens} tokens"
            )
        return made

    def _loaded(self) -> Dataset:
        if self._chats is None:
            self._chats = chats = self._load()
            remark = skipped_remark(
                chats.source, len(chats.skipped), chats.records, next(iter(chats.skipped), None)
            )
            if remark:
                self._tell(remark)
            if self._spec.recorded_pauses and not any(d.pauses_s for d in chats.dialogues):
                raise UsageError(
                    f"{chats.source} has no times between turns; leave out --think-time recorded"
                )
        return self._chats

    def _load(self) -> Dataset:
        if self._dataset == GENERATED:
            return self._generate()
        try:
            return load_chats(self._dataset or HUB_DATASET, self._strict)
        except UsageError as error:
            if self._dataset is not None:
                raise
            self._tell(f"{error} Until then: generated conversations.")
            return self._generate()

    def _generate(self) -> Dataset:
        spec = self._spec
        return Dataset(GENERATED, generated_chats(spec.conversations, spec.seed, self._tokens))
