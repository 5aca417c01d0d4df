"""What a finished stage tells its user: results, the loss curve, the model card."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from orca.stream import TraceDataModule
from orca.training.loggers import METRICS_FILE, read_metrics

MACHINE_FILE = "machine.json"


def summarise(directory: Path, datamodule: TraceDataModule, stage: str) -> dict[str, Any]:
    """First and last held-out figures, what was trained on, and how fast."""
    metrics = read_metrics(directory / METRICS_FILE)

    def ends(name: str) -> dict[str, float] | None:
        values = [value for _, found, value in metrics if found == name]
        return {"before": values[0], "after": values[-1]} if values else None

    speeds = sorted(value for _, name, value in metrics if name == "throughput/tokens_per_second")
    totals = datamodule.card.counters["totals"]
    return {
        "stage": stage,
        "held_out_loss": ends("val/loss"),
        "exact_answer": ends("val/exact_answer"),
        "steps": totals["steps"],
        "skipped_steps": int((ends("guards/skipped_steps") or {"after": 0})["after"]),
        "examples": totals["examples"],
        "truncated": totals["truncated"],
        "tokens": totals["tokens"],
        "target_tokens": totals["target_tokens"],
        "tokens_per_second": speeds[len(speeds) // 2] if speeds else None,
        "seconds": round(datamodule.seconds, 1),
    }


LEFT = {
    "hf": "the model",
    "adapter": "LoRA's weights alone",
    "best": "the weights of the lowest held-out loss",
    "data_card.md": "what was read and trained on",
    "loss.png": "the loss",
    "metrics.csv": "every metric",
    "samples.jsonl": "answers to held-out questions",
    "benchmarks": "answers to benchmarks",
    "incidents.jsonl": "steps that were skipped or stood out",
}
"""What a run may leave, for its last lines."""


def describe(results: dict[str, Any], directory: Path) -> str:
    """The lines that end a run."""
    lines = [f"{results['stage']}: what was learned"]
    for name, key, form in (
        ("held-out loss", "held_out_loss", "{:.3f}"),
        ("exact answers to held-out questions", "exact_answer", "{:.1%}"),
    ):
        ends = results[key]
        if ends:
            lines.append(f"  {name}: {form.format(ends['before'])} → {form.format(ends['after'])}")
    lines.append(
        f"  trained on {results['examples']:,} examples, {results['target_tokens']:,} targets of "
        f"{results['tokens']:,} tokens in {results['steps']} steps, {results['seconds']:.0f} s"
    )
    if results["skipped_steps"]:
        lines.append(
            f"  warning: {results['skipped_steps']} of these steps were skipped, their loss or "
            "gradient was no number; incidents.jsonl names their examples"
        )
    if results["steps"] < 10 and results["examples"] > 10 * results["steps"]:
        lines.append(f"  warning: only {results['steps']} step(s); lower data.global_batch?")
    if results["truncated"] > 0.05 * results["examples"]:
        lines.append(
            f"  warning: {results['truncated']} of {results['examples']} queries were cut to fit "
            "data.max_tokens"
        )
    left = [f"{name} ({what})" for name, what in LEFT.items() if (directory / name).exists()]
    lines.append(f"  {directory}: {', '.join(left)}")
    return "\n".join(lines)


def plot_loss(directory: Path) -> None:
    """``loss.png``: training and held-out loss against the optimizer step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    metrics = read_metrics(directory / METRICS_FILE)
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    train = [(step, value) for step, name, value in metrics if name == "train/loss"]
    held_out = [(step, value) for step, name, value in metrics if name == "val/loss"]
    if train:
        steps, values = zip(*train, strict=True)
        axes.plot(steps, values, color="#9db4c8", linewidth=1, label="training, each step")
        axes.plot(
            steps, _smooth(list(values)), color="#1f5a8a", linewidth=2, label="training, mean"
        )
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o-", color="#c2541b", label="held out")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("cross-entropy per target token (nats)")
    axes.set_title(f"{directory.parent.name} / {directory.name}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(directory / "loss.png", dpi=130)
    pyplot.close(figure)


def model_card(
    config: DictConfig, stage: str, results: dict[str, Any], datamodule: TraceDataModule
) -> str:
    """README.md of the exported model."""
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    recipe = OmegaConf.to_yaml(
        {
            key: resolved[key]
            for key in ("model", "data", "template", "optimizer", "scheduler", "stages", "seed")
        }
    )
    ends = {name: results[name] for name in ("held_out_loss", "exact_answer") if results[name]}
    figures = [f"| {n} | {e['before']:.4f} | {e['after']:.4f} |" for n, e in ends.items()]
    composition = datamodule.card.to_dict()["composition"]
    synthetic = all(teacher.startswith("synthetic") for teacher in composition["teacher"])
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            f"base_model: {config.model.hub_id or config.model.path}",
            "tags: [explanation-tuning, orca]",
            "---",
            f"# {config.model.name} after {stage}",
            "",
            "Trained on explanation traces (system message, query, teacher response) after the "
            "Orca paper, arXiv 2306.02707. The licences of the base model and of the data apply.",
            "",
            f"- Data: `{config.data.name}`, part `{datamodule.part}`: {results['examples']:,} "
            f"examples, {results['target_tokens']:,} target tokens. Teachers: "
            f"{', '.join(composition['teacher'])}.",
            *(["- The traces are synthetic: programs wrote them."] if synthetic else []),
            f"- Prompt: the chat template of the tokenizer (`{config.template.name}`).",
            f"- Code: commit {git_commit() or 'unknown'}.",
            "",
            "| on held-out traces | before | after |",
            "| --- | --- | --- |",
            *figures,
            "",
            "## Use",
            "",
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            'tokenizer = AutoTokenizer.from_pretrained("<this directory>")',
            'model = AutoModelForCausalLM.from_pretrained("<this directory>")',
            'messages = [{"role": "user", "content": "What is 2 + 3?"}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ")",
            "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0]))",
            "```",
            "",
            "## Recipe",
            "",
            "```yaml",
            recipe.strip(),
            "```",
            "",
        ]
    )


def save_machine(directory: Path, trainer: L.Trainer) -> None:
    """``machine.json``: what trains this stage, from which code and since when.

    A run that goes on elsewhere overwrites it; ``began`` stays.
    """
    file = directory / MACHINE_FILE
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} thread(s)"
    libraries = ("torch", "lightning", "transformers")
    facts = {
        "device": f"{trainer.world_size} × {name}{threads}, {trainer.precision}",
        "software": ", ".join(f"{one} {version(one)}" for one in libraries),
        "commit": git_commit(),
        "began": known.get("began") or datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    file.write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def _processor() -> str:
    """The processor's name, as Linux knows it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def git_commit() -> str | None:
    """The commit of this code, with ``-dirty`` where files were changed; None outside git."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _smooth(values: list[float], width: int = 9) -> list[float]:
    half = width // 2
    return [
        sum(part) / len(part)
        for i in range(len(values))
        if (part := values[max(0, i - half) : i + half + 1])
    ]


def held_out_loss(config: DictConfig) -> float | None:
    """The held-out loss that the run ended with, for sweepers."""
    file = Path(config.paths.run_dir) / str(list(config.stages)[-1]) / "results.json"
    if not file.exists():
        return None
    ends = json.loads(file.read_text(encoding="utf-8"))["held_out_loss"]
    return ends["after"] if ends else None


def next_command(config: DictConfig) -> str:
    """What to type next: the second stage after the first, a chat with the result otherwise."""
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if list(config.stages) == ["flan5m_chatgpt"] and HydraConfig.initialized() and not in_sweep:
        given = [
            shlex.quote(option)
            for option in HydraConfig.get().overrides.task
            if option.split("=")[0] not in ("stage", "resume", "overwrite")
        ]
        return f"next: {' '.join(['python train.py stage=flan1m_gpt4', *given])}"
    model = Path(config.paths.run_dir) / str(list(config.stages)[-1]) / "hf"
    if model.is_relative_to(Path.cwd()):
        model = model.relative_to(Path.cwd())
    return f"next: python -m orca.chat {shlex.quote(f'model={model}')}"
