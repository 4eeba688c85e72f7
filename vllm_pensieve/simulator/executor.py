"""SimulatedExecutor: in place of workers that compute a model, tokens that are known beforehand.

vLLM's engine, scheduler and KV cache manager, and the plugin, run as they are; only nothing is computed and no KV is
held. An engine is there as soon as vLLM is imported, and a step takes no time unless a latency is asked for.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override
from vllm.logger import init_logger
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.kv_cache_layout import KVCacheLayout
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, LogprobsLists, ModelRunnerOutput

from vllm_pensieve.config import ConfigError
from vllm_pensieve.simulator.settings import SimulatorSettings
from vllm_pensieve.simulator.tokens import SCRIPTS, Script, endless

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.sched.output import NewRequestData, SchedulerOutput

logger = init_logger("vllm.pensieve")

DEFAULT_KV_CACHE_BYTES = 4 * 2**30
"""KV memory that is pretended where --kv-cache-memory-bytes does not say how much; none is taken."""

ANSWERS: dict[str, str | None] = {
    "execute_dummy_batch": None,
    "get_model_inspection": "no model: SimulatedExecutor",
    "initialize_from_config": None,
    "reset_encoder_cache": None,
    "reset_mm_cache": None,
    "set_kv_cache_layout": None,
    "shutdown": None,
    "update_max_model_len": None,
}
"""To what vLLM asks of workers where there is nothing to do."""


class SimulatedExecutor(Executor):
    """Answers for one worker that has all layers of the model, whatever the number of devices.

    Raises (when an engine is made):
        ConfigError: a setting cannot be used, or the configuration needs a model's own results or a worker's KV.
    """

    @override
    def _init_executor(self) -> None:
        if (reason := why_not_simulated(self.vllm_config)) is not None:
            raise ConfigError(f"the simulated executor cannot be used: {reason}")
        self.settings = SimulatorSettings.from_additional_config(self.vllm_config.additional_config)
        self.scripts: dict[str, Script] = {}
        # Where the front end runs in this process, vLLM now refuses requests for those of other tokens.
        self.model_config.max_logprobs = 0

    # -- start

    @override
    def get_kv_cache_specs(self) -> list[dict[str, Any]]:
        config = self.model_config
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size,
            num_kv_heads=config.get_num_kv_heads(self.parallel_config),
            head_size=config.get_head_size(),
            dtype=config.dtype,
        )
        layers = config.get_num_layers(self.parallel_config)
        return [{f"model.layers.{layer}.self_attn": spec for layer in range(layers)}]

    @override
    def get_supported_kv_cache_layouts(self) -> list[list[str]]:
        return [[layout.name for layout in KVCacheLayout]]

    @override
    def determine_available_memory(self) -> list[int]:
        return [self.cache_config.kv_cache_memory_bytes or DEFAULT_KV_CACHE_BYTES]

    @override
    def compile_or_warm_up_model(self) -> None:
        """Nothing is compiled."""

    @property
    def supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    # -- steps

    @override
    def execute_model(self, scheduler_output: SchedulerOutput, non_block: bool = False) -> Any:
        output = self._step(scheduler_output)
        return _done(output) if non_block else output

    def _step(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        """One token for each request whose last known token is in the batch."""
        for request_id in scheduler_output.finished_req_ids:
            self.scripts.pop(request_id, None)
        if not scheduler_output.total_num_scheduled_tokens:
            return EMPTY_MODEL_RUNNER_OUTPUT
        position: dict[str, int] = {}
        known_tokens: dict[str, int] = {}
        for new in scheduler_output.scheduled_new_reqs:
            self.scripts[new.req_id] = self._script(new)
            position[new.req_id] = new.num_computed_tokens
            # The V2 model runner hears of resumed requests as of new ones, with all their tokens.
            known_tokens[new.req_id] = len(new.prefill_token_ids or new.prompt_token_ids)
        cached = scheduler_output.scheduled_cached_reqs
        for i, request_id in enumerate(cached.req_ids):
            position[request_id] = cached.num_computed_tokens[i]
            prompt_tokens = self.scripts[request_id].prompt_tokens
            known_tokens[request_id] = prompt_tokens + cached.num_output_tokens[i]
        sampled = []
        for request_id, scheduled in scheduler_output.num_scheduled_tokens.items():
            known = known_tokens[request_id]
            script = self.scripts[request_id]
            reached = position[request_id] + scheduled == known
            sampled.append([script.token(known - script.prompt_tokens)] if reached else [])
        self._take_time(scheduler_output.total_num_scheduled_tokens)
        ids = list(scheduler_output.num_scheduled_tokens)
        return ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={request_id: i for i, request_id in enumerate(ids)},
            sampled_token_ids=sampled,
            logprobs=_certain(sampled) if any(self.scripts[r].logprobs for r in ids) else None,
        )

    def _script(self, new: NewRequestData) -> Script:
        params = new.sampling_params
        assert params is not None and new.prompt_token_ids is not None
        try:
            return SCRIPTS[self.settings.tokens](new.prompt_token_ids, params)
        except ValueError as error:  # a client's mistake must not stop the engine
            logger.warning(
                "Simulated executor: request %s ends at its limit: %s", new.req_id, error
            )
            return endless(new.prompt_token_ids, params)

    def _take_time(self, tokens: int) -> None:
        seconds = self.settings.step_s + self.settings.token_s * tokens
        if seconds:
            time.sleep(seconds)

    # -- the rest of what vLLM asks of workers

    @override
    def collective_rpc(
        self,
        method: Any,
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        non_block: bool = False,
    ) -> Any:
        if method not in ANSWERS:
            raise NotImplementedError(
                f"the simulated executor has no worker that could do {method!r}"
            )
        answers = [ANSWERS[method]]
        return _done(answers) if non_block else answers

    @override
    def check_health(self) -> None:
        """There is nothing that could fail."""


def why_not_simulated(vllm_config: VllmConfig) -> str | None:
    """What in this configuration needs a real worker, or None."""
    model = vllm_config.model_config
    connector = vllm_config.kv_transfer_config
    if connector is not None:
        return (
            f"the KV connector {connector.kv_connector} needs a real worker, because no KV is held here; set no "
            "host_cache_gib, or take a real executor"
        )
    if model.runner_type != "generate":
        return f"it generates tokens, and the model is run for {model.runner_type}"
    if model.is_hybrid or model.is_attention_free or model.use_mla or model.get_sliding_window():
        return "the model has other layers than those of full attention (sliding window, MLA, Mamba or hybrid)"
    if model.is_multimodal_model or model.enable_prompt_embeds:
        return "it knows text prompts only, no images, audio or embeddings"
    if vllm_config.speculative_config is not None:
        return "speculative decoding needs a model's own guesses"
    return None


def _certain(sampled: list[list[int]]) -> LogprobsLists:
    """Probability 1 for every token; where a request has none in this step its row is not read."""
    rows = len(sampled)
    return LogprobsLists(
        logprob_token_ids=np.array([tokens or [0] for tokens in sampled]),
        logprobs=np.zeros((rows, 1), np.float32),
        sampled_token_ranks=np.ones(rows, np.int64),
    )


def _done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future
