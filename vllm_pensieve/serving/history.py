"""The history of one conversation, in tokens: what was computed for a turn is sent again exactly as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vllm_pensieve.models import PLAIN_CHAT_TEMPLATE

NEXT_USER = "\nUser:"
"""Where a model without a chat template begins to write the user's part itself."""


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    chat_template: Any

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def apply_chat_template(
        self,
        conversation: Any,
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        chat_template: str | None,
    ) -> Any: ...


@dataclass(frozen=True)
class Prompt:
    """A turn that can be sent: the whole conversation up to where its reply begins, as text and as tokens."""

    message: str
    text: str
    token_ids: tuple[int, ...]
    new_tokens: int
    """Tokens after what the turns before have left in the cache, if it is all still there."""


class History:
    """Messages of one conversation and the tokens they were sent and generated as.

    A reply that is tokenised again need not give the tokens it was generated as, and the cached KV would end there.
    So the next prompt is the tokens of the last one, those of its reply, and the tokens of whatever text the chat
    template puts after them. Only where the template changes what was before is everything tokenised again.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._messages: list[dict[str, str]] = []
        self._text = ""  # what the tokens stand for; empty if they do not stand for the messages
        self._token_ids: list[int] = []

    @property
    def token_ids(self) -> list[int]:
        """Tokens of the conversation so far, its last reply included."""
        return list(self._token_ids)

    @property
    def turns(self) -> int:
        """Turns that were answered."""
        return len(self._messages) // 2

    @property
    def has_template(self) -> bool:
        """Whether the model says how a conversation is written; without, it is a plain transcript."""
        return bool(getattr(self._tokenizer, "chat_template", None))

    def ask(self, message: str) -> Prompt:
        """The prompt of the next turn; the history stays as it is until the turn was answered."""
        text = self._render([*self._messages, {"role": "user", "content": message}])
        if self._text and text.startswith(self._text):
            behind = self._encode(text[len(self._text) :])
            return Prompt(message, text, (*self._token_ids, *behind), len(behind))
        token_ids = self._encode(text, begins=True)
        return Prompt(message, text, tuple(token_ids), len(token_ids))

    def answered(
        self, prompt: Prompt, reply: str, reply_ids: Sequence[int], stands_for_reply: bool = True
    ) -> None:
        """Add a turn. reply_ids: the tokens generated.

        stands_for_reply: whether they are the reply, and not more than it, as with a stop string after it.
        """
        self._messages += [
            {"role": "user", "content": prompt.message},
            {"role": "assistant", "content": reply},
        ]
        self._text = prompt.text + reply if stands_for_reply else ""
        self._token_ids = [*prompt.token_ids, *reply_ids]

    def _render(self, messages: list[dict[str, str]]) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                chat_template=None if self.has_template else PLAIN_CHAT_TEMPLATE,
            )
        )

    def _encode(self, text: str, begins: bool = False) -> list[int]:
        """begins: text is the beginning of the conversation; a template writes the special tokens there itself."""
        special = begins and not self.has_template
        return list(self._tokenizer.encode(text, add_special_tokens=special))
