"""Tokens per second and MFU of a training step on one GPU, lever by lever, beside TRL's SFTTrainer.

    pip install -e '.[benchmark,gpu]'          # gpu: flash-attn and Liger, both optional here
    python benchmarks/train_step_gpu.py --minutes 9
    python benchmarks/train_step_gpu.py --minutes 9     # goes on where the time ran out

Decoder layers of LLaMA's 13B and 7B shapes with random weights, as many as fit one GPU with
float32 master weights, gradients and AdamW's moments; packs of 2,048 tokens whose examples have the
lengths of real Orca-style traces; bf16 autocast, fused AdamW, clipping by norm, loss on the
responses alone. Ours runs through the project's own module, optimizer and data path. TRL gets the
same model, texts and number of packs a step: bf16, best-fit packing, fused AdamW, the best
attention that it finds and the same gradient checkpointing, with and without `torch.compile`, and
Liger where that is installed.

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
import importlib.util
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_report import device_name, rate, report
from gpu_sides import WARM_UP, Case, Random, ours, trl, write_traces
from transformers.models.llama import modeling_llama

from orca.errors import UserError
from orca.training import BACKENDS, choose_backend
from orca.training.flops import mfu_reference, model_flops


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
            name = f"TRL, checkpointing {mode}, compile"
            found.append(Case(name, checkpointing=mode, compile=True, trl=True))
    if smoke:  # one of every kind; compiling takes long
        found = [c for c in found if not c.compile and (c.checkpointing != "none" or not c.trl)]
    return found


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
                said = result.get("failed") or f"{rate(result):,.0f} tokens/s"
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
