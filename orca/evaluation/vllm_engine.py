"""A model by vLLM, in this process and its workers: for real sizes and several GPUs."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orca.decoding import Question, Row, end_tokens
from orca.errors import UserError
from orca.evaluation.hf_engine import find_model, set_template
from orca.evaluation.model_engine import ModelEngine
from orca.traces import Template
from orca.training import weights_hash

TEMPERATURES = (0.01, 2.0)
"""vLLM raises what is between 0 and the first, and refuses what is above the second."""


class VLLMEngine(ModelEngine):
    """Asks and reads as engine ``hf`` does; vLLM is given token ids, and gives ids back.

    Of the generation configuration only the end tokens are used, weights are read from safetensors
    alone, and no code of the model's authors is run.

    Args:
        model: as for ``engine=hf``.
        tensor_parallel_size: GPUs over which the weights are spread.
        dtype: ``bfloat16``, ``float16`` or ``float32``.
        max_model_len: tokens of a prompt with its answer; None takes the model's own context.
        gpu_memory_utilization: of each GPU's memory, for weights, keys and values.
        template: how to ask a model that has no chat template (a base model).

    Raises:
        UserError: vLLM or the model is not to be had, or vLLM does not start with it.
    """

    decoder: Any  # a VLLMDecoder, which has the methods of the other one

    def __init__(
        self,
        model: str,
        tensor_parallel_size: int = 1,
        dtype: str = "bfloat16",
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        template: Template | None = None,
    ) -> None:
        if dtype not in ("bfloat16", "float16", "float32"):
            raise UserError(f"engine.dtype={dtype}: bfloat16, float16 or float32")
        self.model = model
        self.tensor_parallel_size = tensor_parallel_size
        self.vllm = import_vllm()
        pretrained = find_model(model)
        self.directory = pretrained.directory()
        if not any(self.directory.glob("*.safetensors")):
            raise UserError(f"model={model} has no safetensors in {self.directory}")
        self.tokenizer = pretrained.tokenizer()
        set_template(self.tokenizer, template, model)
        try:
            llm = self.vllm.LLM(
                model=str(self.directory),
                tensor_parallel_size=tensor_parallel_size,
                dtype=dtype,
                max_model_len=max_model_len,
                gpu_memory_utilization=gpu_memory_utilization,
                load_format="safetensors",
                trust_remote_code=False,
                skip_tokenizer_init=True,
                generation_config="vllm",  # its name for none of the model's own
                disable_log_stats=False,  # the statistics have the latencies
            )
        except (ValueError, RuntimeError, OSError) as error:
            told = " ".join(str(error).split())
            raise UserError(
                f"model={model}: vLLM did not start: {told} What it printed above may say more; "
                "engine.max_model_len, engine.tensor_parallel_size and "
                "engine.gpu_memory_utilization decide what fits"
            ) from error
        end_ids = end_tokens(
            SimpleNamespace(generation_config=generation_config(self.directory)), self.tokenizer
        )
        self.context = llm.llm_engine.model_config.max_model_len
        self.decoder = VLLMDecoder(self.vllm, llm.llm_engine, end_ids)

    def describe(self) -> dict[str, Any]:
        """The model, its weights, and how it is computed."""
        platform = importlib.import_module("vllm.platforms").current_platform
        template = str(self.tokenizer.chat_template)
        return {
            "engine": "vllm",
            "model": self.model,
            "weights": weights_hash(self.directory)[:16],
            "dtype": str(self.decoder.engine.model_config.dtype).removeprefix("torch."),
            "device": platform.get_device_name(),
            "tensor_parallel_size": self.tensor_parallel_size,
            "max_model_len": self.context,
            "vllm": self.vllm.__version__,
            "transformers": importlib.metadata.version("transformers"),
            "torch": importlib.metadata.version("torch"),
            "template": hashlib.sha256(template.encode()).hexdigest()[:16],
            **self.system_message_facts(),
        }


class VLLMDecoder:
    """Continues rows of tokens, all of them at once: vLLM makes its own batches.

    Args:
        vllm: the module.
        engine: its `LLMEngine`, which gives each answer when it ends; `LLM.generate` keeps them
            until the last has, and a run that is killed would lose them all.
        end_ids: tokens that end an answer.
    """

    def __init__(self, vllm: Any, engine: Any, end_ids: set[int]) -> None:
        self.vllm = vllm
        self.engine = engine
        self.end_ids = end_ids
        kinds = importlib.import_module("vllm.sampling_params").RequestOutputKind
        self.options = {"detokenize": False, "output_kind": kinds.FINAL_ONLY}

    def generate(self, rows: Sequence[Row], temperature: float) -> Iterator[Row]:
        """Writes every row's answer to its end; rows come back as they end.

        Raises:
            UserError: vLLM does not sample at this temperature, or gave an answer up.
        """
        least, most = TEMPERATURES
        if temperature and not least <= temperature <= most:
            raise UserError(
                f"protocol.temperature={temperature}: vLLM takes 0, or {least:g} to {most:g}; "
                "engine=hf takes any"
            )
        requests = []
        for row in rows:
            params = self.vllm.SamplingParams(
                temperature=temperature,
                seed=row.seed,
                max_tokens=row.limit,
                stop_token_ids=sorted(self.end_ids),
                **self.options,
            )
            requests.append((row.ids, params))
        for number, result in self._run(requests):
            row, answer = rows[number], result.outputs[0]
            if answer.finish_reason not in ("stop", "length"):
                raise UserError(
                    f"vLLM gave an answer up ({answer.finish_reason}); the same command goes on"
                )
            row.ids.extend(answer.token_ids)
            row.ended = answer.finish_reason == "stop"
            row.seconds = result.metrics.last_token_ts - result.metrics.scheduled_ts
            yield row

    def loglikelihoods(self, questions: Sequence[Question]) -> Iterator[tuple[int, list[float]]]:
        """(index, log-probability of each sequence from where its continuation begins).

        Raises:
            UserError: a sequence fills the context, and vLLM writes a token more.
        """
        params = self.vllm.SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=0, **self.options
        )
        places = [
            (q, option) for q, one in enumerate(questions) for option in range(len(one.sequences))
        ]
        requests = [(questions[q].sequences[option].tolist(), params) for q, option in places]
        context = self.engine.model_config.max_model_len
        if any(len(ids) >= context for ids, _ in requests):
            raise UserError(
                f"a prompt with its option fills the model's {context} tokens, of which vLLM needs "
                "one: engine=hf, or a larger engine.max_model_len"
            )
        scores: list[dict[int, float]] = [{} for _ in questions]
        for number, result in self._run(requests):
            (q, option), (ids, _) = places[number], requests[number]
            known = result.prompt_logprobs  # at each place, of the token there; None at the first
            begin = questions[q].begin
            scores[q][option] = sum(known[i][ids[i]].logprob for i in range(begin, len(ids)))
            if len(scores[q]) == len(questions[q].sequences):
                yield questions[q].index, [scores[q][i] for i in range(len(scores[q]))]

    def _run(self, requests: Sequence[tuple[list[int], Any]]) -> Iterator[tuple[int, Any]]:
        """(number of the request, its `RequestOutput`), each as soon as it is there."""
        for number, (ids, params) in enumerate(requests):
            prompt = self.vllm.TokensPrompt(prompt_token_ids=ids)
            self.engine.add_request(str(number), prompt, params)
        while self.engine.has_unfinished_requests():
            for result in self.engine.step():
                if result.finished:
                    yield int(result.request_id), result


def import_vllm() -> Any:
    """The module; raises :class:`UserError` where it is not installed or cannot be loaded."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it reports to its authors otherwise
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise UserError(
            f"engine=vllm needs the package vllm ({error}). Install it (pip install -e '.[vllm]'), "
            "or take engine=hf"
        ) from None


def generation_config(directory: Path) -> Any:
    """As `transformers` has it beside the weights: its own file, or what ``config.json`` says."""
    from transformers import AutoConfig, GenerationConfig

    if (directory / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(directory)
    config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    return GenerationConfig.from_model_config(config)
