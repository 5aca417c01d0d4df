"""Students to chat with: random weights, a byte tokenizer, a training template."""

from __future__ import annotations

from pathlib import Path

from conftest import varied_llama

from orca.traces import Template
from orca.training import byte_tokenizer


def write_student(
    directory: Path,
    template: Template,
    context: int = 2048,
    samples: bool = False,
    ends: bool = True,
) -> Path:
    """A random model as a stage leaves it in hf/, whose answers vary.

    Args:
        samples: what ``generation_config.json`` says of ``do_sample``.
        ends: many tokens end an answer; else no answer ends before its limit.
    """
    tokenizer = byte_tokenizer()
    template.prepare(tokenizer)
    model = varied_llama(context)
    ends_at = [tokenizer.eos_token_id, *range(70, 76)] if ends else [tokenizer.eos_token_id]
    model.generation_config.eos_token_id = ends_at
    if not ends:  # the end's logit is 0, and among 263 wide ones some are far above
        model.lm_head.weight.data.mul_(4)[tokenizer.eos_token_id] = 0
    model.generation_config.do_sample = samples
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
