"""The scripts that check a server of this process, and let a user read how."""

from __future__ import annotations

from collections.abc import Callable

from vllm_pensieve.cli.options import takes
from vllm_pensieve.selfcheck.basic_inference import check_basic_inference
from vllm_pensieve.selfcheck.checks import Checks
from vllm_pensieve.selfcheck.chunk_pinning import check_chunk_pinning
from vllm_pensieve.selfcheck.multiturn import check_multiturn
from vllm_pensieve.selfcheck.setting import Setting


def _command(run: Callable[[Setting, Checks], None]) -> Callable[..., None]:
    """The command that runs these checks; its exit status is 1 if one fails."""

    def check(setting: Setting) -> int:
        checks = Checks(lambda line: print(line, flush=True))
        with checks.trying("the checks run to their end"):
            run(setting, checks)
        return checks.end()

    check.__doc__ = run.__doc__
    return takes(Setting)(check)


basic_inference = _command(check_basic_inference)
chunk_pinning = _command(check_chunk_pinning)
multiturn = _command(check_multiturn)
