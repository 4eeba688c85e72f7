"""Options of the commands that make a client's requests: which conversations, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from vllm_pensieve.bench.run_options import Strict
from vllm_pensieve.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_pensieve.workloads.clients import Clients

DRAWN, RECORDED = "drawn", "recorded"
Conversations = Annotated[
    int, Option(min=1, help="Conversations at most; of qa and summarization, requests.")
]
MaxPrompt = Annotated[
    int, Option(min=64, help="Turns with longer prompts are left out (the demo model: bytes).")
]
Rate = Annotated[float, Option(min=0.001, help="New conversations a second (Poisson arrivals).")]
Workload = Annotated[
    str,
    Argument(
        help="chat_multi, chat_single, qa, summarization, several with commas, `all`, or `sharegpt`: the chat that "
        "--mode selects."
    ),
]
SHAREGPT = "sharegpt"
"""The chat that --mode selects, and files of the names that the prefix-sharing study gives them."""


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Which conversations a client has, and how it times them."""

    dataset: Annotated[
        str | None,
        Option(
            help="Conversations: a file, OWNER/NAME of a data set on the Hugging Face hub, or `generated`. By default "
            "the hub's anon8231489123/ShareGPT_Vicuna_unfiltered, and where it is not available, generated ones."
        ),
    ] = None
    model: Annotated[
        str, Option(help="Model name or folder; `demo` is a random model made on this machine.")
    ] = "demo"
    conversations: Conversations = 20
    max_prompt_tokens: MaxPrompt = 8192
    requests_per_s: Rate = 4.0
    think_time_s: Annotated[
        float, Option(min=0, help="Mean pause between turns of a conversation (exponential).")
    ] = 5.0
    seed: Annotated[int, Option(min=0, help="Seed of choice, texts, lengths and times.")] = 0
    think_time: str = DRAWN
    strict: bool = False

    def clients(self, console: Console) -> Clients:
        """The clients that these options describe; what one should know about their data is printed."""
        from vllm_pensieve.workloads.clients import Clients
        from vllm_pensieve.workloads.events import ClientSpec
        from vllm_pensieve.workloads.tokens import token_counter

        if self.think_time not in (DRAWN, RECORDED):
            raise UsageError(
                f"--think-time {self.think_time!r}: choose one of: {DRAWN}, {RECORDED}"
            )
        spec = ClientSpec(
            self.conversations,
            self.requests_per_s,
            self.think_time_s,
            self.max_prompt_tokens,
            self.seed,
            self.think_time == RECORDED,
        )
        counter = token_counter(self.model)
        return Clients(self.dataset, spec, counter, lambda text: note(console, text), self.strict)


@dataclass(frozen=True, kw_only=True)
class WorkloadOptions(ClientOptions):
    """Which workloads, for commands that have a choice."""

    workload: Workload = "all"
    mode: Annotated[
        str,
        Option(
            envvar="PREFIX_MODE",
            help="`single`: first messages alone; `multi`: every turn with the transcript before it.",
        ),
    ] = "multi"
    think_time: Annotated[
        str,
        Option(
            help="`drawn`: with the mean of --think-time-s; `recorded`: as long as people took by the data set's times "
            "(WildChat has them), drawn where it has none."
        ),
    ] = DRAWN
    strict: Strict = False


def note(console: Console, text: str) -> None:
    """Print what one should know."""
    console.print(f"note: {text}", highlight=False, markup=False, soft_wrap=True)
