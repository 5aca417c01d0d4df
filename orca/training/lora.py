"""LoRA: small trained matrices beside frozen ones (arXiv 2106.09685), for people with one GPU.

The layers come from `peft` and are put into the model in place, so that what reaches into it (the
loss, generation, checkpoints) finds what it always finds. A stage ends with the merged model in
``hf/``, from which the next stage starts, and the trained matrices in ``adapter/``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orca.errors import UserError

ADAPTER = "default"
"""What `peft` calls an adapter that is given no name."""


@dataclass(frozen=True)
class Lora:
    """Adapters on the linear layers of the decoder.

    Args:
        rank: columns of the one and rows of the other trained matrix.
        alpha: their product is scaled by ``alpha / rank``.
        dropout: on the adapters' input.
        target_modules: names of linear layers such as ``q_proj``; None for all in the decoder
            layers.
        lr_factor: ``optimizer.lr`` is by default the model's learning rate times this
            (``conf/optimizer``).
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: Sequence[str] | None = None
    lr_factor: float = 10.0

    def __post_init__(self) -> None:
        positive = self.alpha > 0 and self.lr_factor > 0
        if self.rank < 1 or not positive or not 0 <= self.dropout < 1:
            raise UserError(
                f"model.adapter: rank={self.rank} must be at least 1, alpha={self.alpha} and "
                f"lr_factor={self.lr_factor} more than 0, and dropout={self.dropout} in [0, 1)"
            )

    def check(self, strategy: str, pretrained_tokenizer: Any | None, tokenizer: Any) -> None:
        """Refuse what cannot work, before anything is written.

        Args:
            strategy: the name of the strategy.
            pretrained_tokenizer: as the model's authors made it; None for a stage that goes on
                from one that has trained the added tokens.
            tokenizer: prepared by the template.

        Raises:
            UserError: sharded parameters, or a template with tokens that the model never saw.
        """
        if strategy not in ("single", "ddp"):
            raise UserError(
                f"model/adapter=lora does not go with strategy={strategy}: frozen bf16 and trained "
                "float32 weights cannot share FSDP2's groups, and with so little to train there is "
                "little to shard. Take strategy=single or strategy=ddp"
            )
        if pretrained_tokenizer is None:
            return
        added = set(tokenizer.get_vocab()) - set(pretrained_tokenizer.get_vocab())
        untrained = sorted(added - {tokenizer.pad_token})
        if untrained:
            raise UserError(
                f"model/adapter=lora keeps embeddings frozen, and the template adds "
                f"{', '.join(untrained)}, which the model would never learn. Take template=orca, "
                "a model that has these tokens, or model/adapter=none"
            )

    def put_on(self, causal_lm: Any, base: str, seed: int, half: bool) -> None:
        """Freeze ``causal_lm`` and give it adapters in float32.

        Args:
            base: the frozen model's name or directory, recorded beside the adapters.
            seed: of the adapters' first weights.
            half: keep frozen linear layers in bf16. Autocast would round them so in every step:
                nothing changes but memory. Embeddings and norms stay in float32.
        """
        from peft import LoraConfig, inject_adapter_in_model

        layers = causal_lm.base_model.layers
        linear = {
            name.rpartition(".")[2]
            for name, module in layers.named_modules()
            if isinstance(module, nn.Linear)
        }
        wanted = set(self.target_modules or linear)
        if not wanted <= linear:
            raise UserError(
                f"model.adapter.target_modules: no {', '.join(sorted(wanted - linear))} in this "
                f"model. It has {', '.join(sorted(linear))}"
            )
        torch.manual_seed(seed)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=sorted(wanted),
            base_model_name_or_path=base,
            task_type="CAUSAL_LM",
        )
        inject_adapter_in_model(config, causal_lm)
        if half:  # not before: adapters are made in the precision of what they adapt
            for name, module in layers.named_modules():
                if isinstance(module, nn.Linear) and "lora_" not in name:
                    module.to(torch.bfloat16)


def save_adapter(causal_lm: Any, directory: Path) -> None:
    """Write the adapters so that ``PeftModel.from_pretrained`` finds them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    found = get_peft_model_state_dict(causal_lm, adapter_name=ADAPTER, save_embedding_layers=False)
    tensors = {f"base_model.model.{name}": t.contiguous().cpu() for name, t in found.items()}
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    causal_lm.peft_config[ADAPTER].save_pretrained(str(directory))


@contextmanager
def merged(causal_lm: Any, dtype: torch.dtype = torch.float32) -> Iterator[Any]:
    """Inside, ``causal_lm`` is a plain model in which the adapters are added to the frozen
    weights; those are in host memory, and untouched afterwards.

    Args:
        dtype: of the merged weights. Their sum is computed in float32: in bf16 most of what was
            learned would be rounded away before it is added up.
    """
    from peft.tuners.lora import LoraLayer

    adapted = [(n, m) for n, m in causal_lm.named_modules() if isinstance(m, LoraLayer)]
    try:
        for name, layer in adapted:
            _replace(causal_lm, name, _merged_linear(layer, dtype))
        yield causal_lm
    finally:
        for name, layer in adapted:
            _replace(causal_lm, name, layer)


@torch.no_grad()
def _merged_linear(layer: Any, dtype: torch.dtype) -> nn.Linear:
    base = layer.get_base_layer()
    with torch.device("meta"):
        plain = nn.Linear(base.in_features, base.out_features, base.bias is not None)
    weight = base.weight.float() + layer.get_delta_weight(ADAPTER)
    plain.weight = nn.Parameter(weight.to(dtype).cpu(), requires_grad=False)
    if base.bias is not None:
        plain.bias = nn.Parameter(base.bias.to(dtype).cpu(), requires_grad=False)
    return plain


def _replace(causal_lm: Any, name: str, module: Any) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(causal_lm.get_submodule(parent), leaf, module)
