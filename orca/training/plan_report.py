"""The plan of a run as text."""

from __future__ import annotations

from orca.training.memory import GIB
from orca.training.plan import StagePlan

PAPER_HOURS = {"chatgpt": 160.0, "gpt4": 40.0}
PAPER_GPUS = 20
PAPER_EXAMPLES_PER_PACK = 2.7
PAPER_MAX_TOKENS = 2048
PAPER_EPOCHS = 4
"""Section 3.2 of arXiv 2306.02707: LLaMA-13B, 20 A100 of 80 GB, padded packs."""

A100_PEAK = 312e12


def plan_report(plan: StagePlan) -> str:
    """All figures of a stage with what they rest on."""
    parts = [
        f"plan of {plan.name}: estimates; nothing is loaded or trained, and no figure here was "
        "compared with a run on a GPU",
        *_model(plan),
        *_memory(plan),
        *_work(plan),
        *_traffic(plan),
        *_disk(plan),
        *_paper(plan),
    ]
    return "\n".join(parts)


def _model(plan: StagePlan) -> list[str]:
    setup, hardware = plan.setup, plan.planning.hardware
    copies = f"{setup.ranks // setup.shards} copies" if setup.shards < setup.ranks else "1 copy"
    lines = [
        f"model: {plan.model}, {plan.shape.total:,} weights ({plan.trained:,} trained), "
        f"{plan.shape.layers} layers of {plan.shape.layer:,}",
        f"ranks: {setup.nodes} node(s) × {setup.devices} {plan.planning.device} "
        f"({hardware.peak / 1e12:g} TFLOP/s dense bf16); strategy {setup.strategy}: {copies} of "
        f"the weights, {plan.shape.total / setup.shards:,.0f} weights per rank",
    ]
    if plan.refused:
        lines.append(f"training would be refused: {plan.refused}")
    return lines


def _memory(plan: StagePlan) -> list[str]:
    setup, planning = plan.setup, plan.planning
    lines = [
        f"memory per rank in GiB (activation_checkpointing={setup.checkpointing}, micro-batch "
        f"{setup.micro_batch} × {setup.max_tokens} tokens, loss_chunk={setup.loss_chunk}, "
        "a flash or varlen kernel, no compile):"
    ]
    rows = [(name, held / GIB) for name, held in plan.memory.device.items() if held]
    rows += [
        (f"fragmentation, {planning.fragmentation:.0%} (assumed)",
         plan.memory.total * planning.fragmentation / GIB),
        ("CUDA context, NCCL, cuBLAS (assumed)", planning.reserve_gib),
        (f"all, of {planning.room / GIB:g}", plan.needed / GIB),
    ]  # fmt: skip
    width = max(len(name) for name, _ in rows)
    lines += [f"  {name:<{width}}  {gib:8.2f}" for name, gib in rows]
    if plan.memory.host:
        node = plan.memory.host * setup.devices / GIB
        lines.append(f"  on the host, per node: {node:.0f} GiB")
    if plan.fits:
        refused = f", but training would be refused: {plan.refused}" if plan.refused else ""
        return [*lines, f"  fits{refused}"]
    lines.append("  does not fit. What each change would make of it:")
    for lever in plan.levers:
        verdict = "fits" if lever.fits else "does not fit"
        lines.append(f"    {lever.needed / GIB:8.2f}  {verdict:<12}  {lever.options}")
    return lines


def _work(plan: StagePlan) -> list[str]:
    work, setup, planning = plan.work, plan.setup, plan.planning
    lengths = work.lengths
    speed = work.tokens / (work.hours * 3600)
    return [
        f"data, {work.source}; data=… is not read: {lengths.examples:,} examples × "
        f"{work.epochs:g} epoch(s), {lengths.tokens_per_example:.0f} tokens each, "
        f"{lengths.target_share:.0%} of them targets, mean length² {lengths.spread:.2f} × squared "
        "mean",
        f"work: {work.steps:,} optimizer steps of {setup.global_batch} packs, "
        f"{work.tokens / 1e9:.2f} G tokens ({work.targets / 1e9:.2f} G targets), "
        f"{work.flops:.3g} FLOPs",
        f"time at {planning.mfu:.0%} MFU (assumed): {work.hours:,.1f} hours, "
        f"{work.hours * setup.ranks:,.0f} GPU-hours, {speed:,.0f} tokens/s "
        f"({speed / setup.ranks:,.0f} per GPU); without validation, checkpoints and restarts",
        "  that MFU is yours to assume (planning.mfu): recomputation (full: a third more work), "
        "offload and traffic that does not hide behind computation lower it",
    ]


def _traffic(plan: StagePlan) -> list[str]:
    sent = plan.traffic
    if plan.setup.ranks == 1:
        return []
    return [
        f"between ranks, for each micro-batch and rank: {_gb(sent.gathered)} of weights gathered, "
        f"{_gb(sent.reduced)} of gradients reduced, while {sent.seconds:.2f} s are computed"
    ]


def _disk(plan: StagePlan) -> list[str]:
    saved, kept = plan.checkpoint_bytes, plan.checkpoints_kept
    whole = saved * (kept + 1) + plan.best_bytes + plan.export_bytes
    best = f" + best weights {_gb(plan.best_bytes)}" if plan.best_bytes else ""
    lines = [
        f"disk: a checkpoint {_gb(saved)} × ({kept} kept + 1 being written){best} + hf/ "
        f"{_gb(plan.export_bytes)} = {_gb(whole)}"
    ]
    if plan.staged_bytes:
        lines.append(f"host memory per node, while one is written: {_gb(plan.staged_bytes)}")
    return lines


def _paper(plan: StagePlan) -> list[str]:
    """The paper's run beside this one, for a model of its size."""
    work, hours = plan.work, PAPER_HOURS.get(plan.part)
    if plan.setup.lora_rank is not None:  # LoRA's work in the hours of full training says nothing
        return []
    if not plan.name.startswith("flan"):  # Orca 2's stages are of another paper
        return []
    if hours is None or not 12.5e9 < plan.shape.total < 13.5e9:
        return []
    gpu_hours = PAPER_GPUS * hours
    could = gpu_hours * 3600 * A100_PEAK
    examples = PAPER_EPOCHS * work.lengths.examples
    per_token = work.flops / work.tokens
    real = examples * work.lengths.tokens_per_example * per_token / could
    text = (
        f"the paper: {PAPER_GPUS} × A100 80 GB, {hours:.0f} h = {gpu_hours:,.0f} GPU-hours for "
        f"{PAPER_EPOCHS} epochs (this plan: {work.hours * plan.setup.ranks:,.0f} GPU-hours of "
        f"{plan.planning.device} for {work.epochs:g}). {PAPER_EPOCHS} epochs of the examples above "
        f"in that time are {real:.0%} MFU by true lengths"
    )
    if plan.part == "chatgpt":
        slots = examples / PAPER_EXAMPLES_PER_PACK * PAPER_MAX_TOKENS
        text += (
            f", and {slots * per_token / could:.0%} with its padding counted as work "
            f"({PAPER_EXAMPLES_PER_PACK} examples in {PAPER_MAX_TOKENS} slots)"
        )
    return [text]


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
