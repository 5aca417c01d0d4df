"""The report of train_step_gpu.py: a table for every shape, and the ratio to TRL."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import statistics
import sys
from typing import Any

import torch
from gpu_sides import WARM_UP


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


def rate(result: dict[str, Any]) -> float:
    """Tokens per second of a round."""
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
    speed = statistics.median(rate(row) for row in good)
    parts = zip(flops, ("tokens", "targets", "squares"), strict=True)
    work = {f: name for f, name in parts}
    used = [sum(f * row[n] for f, n in work.items()) / row["seconds"] for row in good]
    ratios = [
        rate(a) / rate(b) for a, b in zip(rows, base, strict=False) if "tokens" in {*a} & {*b}
    ]
    mfu = f"{statistics.median(used) / peak:.1%}" if peak else "–"
    memory = max(row.get("memory", 0) for row in good)
    return (
        f"| {name} | {speed:,.0f} | {', '.join(f'{rate(row):,.0f}' for row in good)} | {mfu} | "
        f"{statistics.median(ratios) if ratios else float('nan'):.2f} | "
        f"{f'{memory / 2**30:.1f}' if memory else '–'} | {good[-1]['loss']:.3f} |"
    )


def _against_trl(rounds: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The fastest case of each side, round by round."""
    best: dict[bool, tuple[float, str]] = {}
    for name, rows in rounds.items():
        speeds = [rate(row) for row in rows if "failed" not in row]
        if speeds:
            side, speed = name.startswith("TRL"), statistics.median(speeds)
            best[side] = max(best.get(side, (0.0, "")), (speed, name))
    if len(best) < 2:
        return []
    pair = [rounds[best[side][1]] for side in (False, True)]
    ratios = [rate(a) / rate(b) for a, b in zip(*pair, strict=False) if "tokens" in {*a} & {*b}]
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
