"""The student: a causal language model that returns the loss of a micro-batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from orca.errors import UserError
from orca.stream import IGNORED, MicroBatch
from orca.training.attention import attention_arguments
from orca.training.loss import target_cross_entropy

_CHANGED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "output_multiplier")


class Student(nn.Module):
    """A causal LM of `transformers` whose forward pass is the training loss.

    The loss is computed inside the module so that a sharded output embedding is whole when it is
    needed.

    Args:
        causal_lm: a model whose logits are ``lm_head(hidden)``.
        loss_chunk: target positions whose logits exist at once.

    Raises:
        UserError: the architecture scales or caps its logits, which this loss would leave out.
    """

    def __init__(self, causal_lm: Any, loss_chunk: int = 1024) -> None:
        super().__init__()
        config = causal_lm.config
        changed = [n for n in _CHANGED_LOGITS if getattr(config, n, None) not in (None, 1, 1.0)]
        head = causal_lm.get_output_embeddings()
        if changed or head is None or getattr(head, "bias", None) is not None:
            what = ", ".join(changed) or "its output layer"
            raise UserError(
                f"model_type={config.model_type} changes its logits ({what}); "
                "this loss is written for plain lm_head(hidden)"
            )
        self.causal_lm = causal_lm
        self.loss_chunk = loss_chunk

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """Sum of cross-entropy over the micro-batch's target tokens, a float32 scalar."""
        hidden = self.hidden_states(batch)[0]
        labels = batch.labels[0]
        places = (labels != IGNORED).nonzero()[:, 0]
        weight = self.causal_lm.get_output_embeddings().weight
        return target_cross_entropy(hidden[places], weight, labels[places], self.loss_chunk)

    def hidden_states(self, batch: MicroBatch) -> torch.Tensor:
        """Final hidden states [1, T, d], each example attending to itself alone."""
        output = self.causal_lm.base_model(batch.input_ids, **attention_arguments(batch))
        return output.last_hidden_state
