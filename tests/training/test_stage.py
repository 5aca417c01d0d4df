"""Whole runs with the tiny model: what they leave, how they resume, how stages follow."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose_config
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer

from orca.config import CONF_DIR, PACKAGE_DIR
from orca.errors import UserError
from orca.stream import IGNORED
from orca.training import newest_checkpoint, read_metrics, train_stage, weights_hash
from orca.training.attention import attention_arguments, implementation
from orca.training.report import describe

ROOT = CONF_DIR.parent
FAST = [
    "model=tiny",
    "logger=csv",
    "precision=32-true",
    "callbacks.answers.questions=2",
    "callbacks.answers.max_new_tokens=4",
    "data.held_out_examples=4",
]
SHORT = [*FAST, "trainer.max_steps=4"]


def train(run_dir: Path, *overrides: str) -> dict[str, Any]:
    config = compose_config(*overrides, run_dir=run_dir)
    results: dict[str, Any] = {}
    for name in config.stages:
        results = train_stage(config, str(name))
    return results


def losses(directory: Path) -> list[tuple[int, float]]:
    rows = read_metrics(directory / "metrics.csv")
    return [(step, value) for step, name, value in rows if name == "train/loss"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A progressive run of four steps a stage."""
    run_dir = tmp_path_factory.mktemp("progressive")
    train(run_dir, *SHORT, "stage=progressive")
    return run_dir


def test_a_run_leaves_everything_that_it_promises(finished: Path) -> None:
    stage = finished / "flan5m_chatgpt"
    for name in (
        "config.yaml",
        "data_card.md",
        "data_card.json",
        "metrics.csv",
        "samples.jsonl",
        "loss.png",
        "results.json",
        "hf/model.safetensors",
        "hf/chat_template.jinja",
        "hf/generation_config.json",
        "hf/README.md",
        "hf/orca.json",
    ):
        assert (stage / name).stat().st_size > 0, name
    config = OmegaConf.load(stage / "config.yaml")
    assert config.run == "tiny-sample" and "${" not in (stage / "config.yaml").read_text()
    results = json.loads((stage / "results.json").read_text())
    assert results["steps"] == 4
    assert results["held_out_loss"]["after"] < results["held_out_loss"]["before"]
    card = json.loads((stage / "data_card.json").read_text())
    assert (
        card["totals"]["steps"] == 4 and card["audit"]["boundaries, target mask, EOS"] == "no fault"
    )


def test_the_exported_model_gives_the_trained_models_logits(tmp_path: Path) -> None:
    """Plain transformers, from the directory alone, against the module that was trained."""
    from hydra.utils import instantiate

    from orca.stream import collate
    from orca.training.stage import ExplanationTuning

    seen: dict[str, Any] = {}
    keep = ExplanationTuning.configure_model

    def remember(self: Any) -> None:
        keep(self)
        seen["module"] = self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExplanationTuning, "configure_model", remember)
        train(tmp_path, *SHORT)
    hf = tmp_path / "flan5m_chatgpt" / "hf"
    tokenizer = AutoTokenizer.from_pretrained(hf)
    model = AutoModelForCausalLM.from_pretrained(hf).eval()
    config = compose_config(*SHORT)
    template = instantiate(config.template)
    datamodule = instantiate(config.data, _partial_=True)(
        part="chatgpt", epochs=1, tokenizer=tokenizer, template=template
    )
    batch = collate(next(iter(datamodule.held_out_packs().values()))[:1])
    trained = seen["module"].student.causal_lm.eval()
    trained.set_attn_implementation(implementation("documents"))
    start, end = batch.boundaries[:2].tolist()
    with torch.no_grad():
        ours = trained(batch.input_ids, **attention_arguments(batch)).logits[:, start:end]
        theirs = model(batch.input_ids[:, start:end]).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (batch.labels != IGNORED).any() and model.config.vocab_size == 320
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Q"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "### Human:\nQ\n\n### Assistant:\n"


def test_stage_two_starts_from_the_weights_that_stage_one_left(finished: Path) -> None:
    first = json.loads((finished / "flan5m_chatgpt/results.json").read_text())
    second = json.loads((finished / "flan1m_gpt4/results.json").read_text())
    assert first["handoff"]["weights"] == weights_hash(finished / "flan5m_chatgpt/hf")
    assert second["handoff"]["weights"] != first["handoff"]["weights"]
    assert second["handoff"]["tokenizer"] == first["handoff"]["tokenizer"]
    # The same held-out traces, so stage 2 begins where stage 1 ended.
    assert second["held_out_loss"]["before"] == pytest.approx(
        first["held_out_loss"]["after"], rel=1e-5
    )


def test_a_stage_that_does_not_fit_the_one_before_is_refused(
    finished: Path, tmp_path: Path
) -> None:
    start = f"stages.flan1m_gpt4.start_from={finished}/flan5m_chatgpt"
    with pytest.raises(UserError, match="another template"):
        train(tmp_path / "a", *SHORT, "stage=flan1m_gpt4", start, "template.response='A: '")
    with pytest.raises(UserError, match="no finished stage"):
        train(tmp_path / "b", *SHORT, "stage=flan1m_gpt4")
    import shutil

    changed = tmp_path / "changed"
    shutil.copytree(finished / "flan5m_chatgpt", changed)
    with (changed / "hf/model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    with pytest.raises(UserError, match="are not those"):
        overrides = f"stages.flan1m_gpt4.start_from={changed}"
        train(tmp_path / "c", *SHORT, "stage=flan1m_gpt4", overrides)


def test_a_run_is_never_overwritten_by_accident(finished: Path) -> None:
    with pytest.raises(UserError, match=r"finished run.*resume=auto.*overwrite=true.*run=NAME"):
        train(finished, *SHORT)
    with pytest.raises(UserError, match=r"seed: 17 → 18"):
        train(finished, *SHORT, "resume=auto", "seed=18")
    before = weights_hash(finished / "flan5m_chatgpt/hf")
    train(finished, *SHORT, "resume=auto")  # finished: nothing is done again
    assert weights_hash(finished / "flan5m_chatgpt/hf") == before


def test_weights_are_validated_once(tmp_path: Path) -> None:
    """Before training, every 2 steps (filed under the step before), and after the last one where
    that was not one of these."""
    for steps, expected in ((4, [0, 1, 3]), (5, [0, 1, 3, 5])):
        run = tmp_path / str(steps)
        train(run, *FAST, f"trainer.max_steps={steps}", "trainer.val_check_interval=2")
        rows = read_metrics(run / "flan5m_chatgpt" / "metrics.csv")
        assert [row[0] for row in rows if row[1] == "val/loss"] == expected


def test_a_later_stage_goes_with_the_one_that_it_started_from(tmp_path: Path) -> None:
    """Neither the results of a second stage nor its half done run outlive another first stage."""
    options = [*FAST, "trainer.max_steps=1", "stage=progressive"]
    first, second = tmp_path / "flan5m_chatgpt", tmp_path / "flan1m_gpt4"

    def train_first(*more: str) -> None:
        train_stage(compose_config(*options, *more, run_dir=tmp_path), first.name)

    train(tmp_path, *options)
    train(tmp_path, *FAST, "trainer.max_steps=1", "seed=3", "overwrite=true")  # stage 1 alone
    with pytest.raises(UserError, match=r"flan1m_gpt4 was trained from other weights than .*hf"):
        train(tmp_path, *FAST, "trainer.max_steps=1", "stage=flan1m_gpt4", "resume=auto")
    with pytest.raises(UserError, match="flex attention has no gradient on cpu"):
        train_first("overwrite=true", "attention=flex")
    assert (second / "results.json").exists()  # refused: all is as it was
    train_first("overwrite=true")
    assert (first / "results.json").exists() and not second.exists()
    train(tmp_path, *options, "resume=auto")
    started = json.loads((second / "results.json").read_text())["handoff"]["started_from"]
    assert (
        started["weights"] == json.loads((first / "results.json").read_text())["handoff"]["weights"]
    )


LONGER = [*FAST, "data.max_tokens=1024", "callbacks.checkpoints.every_n_steps=7"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_bitwise_where_it_stopped(tmp_path: Path, workers: int) -> None:
    """SIGKILL, then resume=auto: losses, learning rates and weights of an unbroken run."""
    options = [*LONGER, f"data.num_workers={workers}", "trainer.max_steps=60", "run=r"]
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    train(unbroken, *options)
    command = [sys.executable, str(ROOT / "train.py"), *options, f"paths.runs={killed}"]
    command += ["callbacks.checkpoints.keep=2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True)
    stage = killed / "r" / "flan5m_chatgpt"
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        if newest_checkpoint(stage / "checkpoints") is not None:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (stage / "results.json").exists()
    config = compose_config(*options, "resume=auto", run_dir=killed / "r")
    train_stage(config, "flan5m_chatgpt")
    reference = read_metrics(unbroken / "flan5m_chatgpt" / "metrics.csv")
    resumed = read_metrics(stage / "metrics.csv")

    def trained(rows: list) -> list:
        return [row for row in rows if row[1].startswith(("train/", "data/"))]

    assert len(losses(stage)) == 60 and trained(resumed) == trained(reference)
    hashes = [weights_hash(d / "hf") for d in (unbroken / "flan5m_chatgpt", stage)]
    assert hashes[0] == hashes[1]
    cards = [
        json.loads((d / "data_card.json").read_text()) for d in (unbroken / "flan5m_chatgpt", stage)
    ]
    assert cards[0] == cards[1]


def test_sigterm_saves_and_ends_with_the_status_that_queues_again(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *FAST, "epochs=50", "run=r"]
    command += [f"paths.runs={tmp_path}", "callbacks.checkpoints.every_n_steps=0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    stage = tmp_path / "r" / "flan5m_chatgpt"
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        if (stage / "metrics.csv").exists() and len(losses(stage)) > 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75 and "resume=auto" in errors, errors[-1000:]
    found = newest_checkpoint(stage / "checkpoints")
    assert found is not None and found[0] == len(losses(stage))
    assert not (stage / "results.json").exists()


def test_wandb_offline_keeps_configuration_card_and_run_id(tmp_path: Path) -> None:
    os.environ.pop("WANDB_API_KEY", None)
    overrides = [o for o in SHORT if o != "logger=csv"]
    train(tmp_path, *overrides, "logger=wandb", "logger.mode=offline")
    stage = tmp_path / "flan5m_chatgpt"
    (run,) = (stage / "wandb").glob("offline-run-*")
    identity = (stage / "wandb_id.txt").read_text()
    assert run.name.endswith(identity)
    file, deadline = next(run.glob("*.wandb")), time.time() + 60
    while b"data_card" not in (record := file.read_bytes()) and time.time() < deadline:
        time.sleep(0.2)  # W&B's own process writes it
    for words in (b"data_card", b"git_commit", b"train/loss", b"max_tokens", b"samples/held_out"):
        assert words in record, words


def test_a_sweep_gives_a_directory_each_and_a_table(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "-m", *SHORT, f"paths.runs={tmp_path}"]
    command += ["optimizer.lr=1e-3,1e-2", "stage=flan5m_chatgpt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    sweep = tmp_path / "tiny-sample"
    with (sweep / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and len({row["held_out_loss"] for row in rows}) == 2
    assert float(rows[0]["held_out_loss"]) <= float(rows[1]["held_out_loss"])
    assert len(list(sweep.glob("*/flan5m_chatgpt/hf/model.safetensors"))) == 2
    assert rows[0]["job"] in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["optimizer.lrr=1"], "Did you mean optimizer.lr?"),
        (["logger=null"], "logger=null: logger takes the name of one of its files: csv, wandb"),
        (["data=locall"], "sample"),
        (["data=local", "data.path=/nowhere", "data.format=chat"], "no file matches '/nowhere/"),
        (
            ["arm=cot_answers", "stage=flan5m_chatgpt", "paths.benchmarks=null"],
            "paths.benchmarks is not set: give it, or the variable ORCA_SHARED_DATA",
        ),
        (["data=local", "data.format=chatty"], "Known: trace, openorca"),
        (["attention=flash_attention_2"], "needs a CUDA device"),
        (["model=hub"], "model.name"),
        (["data.on_bad_row=ignore"], "must be fail or skip"),
    ],
)
def test_a_users_mistake_ends_with_one_sentence(
    tmp_path: Path, options: list[str], words: str
) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *SHORT, f"paths.runs={tmp_path}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.strip().split("error: ")[-1]
    assert done.returncode == 2 and words in last, done.stderr[-1500:]
    assert "Traceback" not in done.stderr


def test_groups_that_a_short_validation_does_not_reach_have_no_loss(tmp_path: Path) -> None:
    train(
        tmp_path,
        *SHORT,
        "callbacks.checkpoints=null",
        "trainer.limit_val_batches=2",
        "data.held_out_examples=40",
    )
    rows = read_metrics(tmp_path / "flan5m_chatgpt" / "metrics.csv")
    losses = [(name, value) for _, name, value in rows if name.startswith("val/loss")]
    assert len({name for name, _ in losses}) == 3  # of all, and of two groups
    assert all(value > 1 for _, value in losses)


def test_a_run_without_checkpoints_validates_and_knows_the_loss_by_group(tmp_path: Path) -> None:
    """Lightning would save in validation by itself; every group's loss is logged, their mean by
    targets is the held-out loss."""
    train(
        tmp_path,
        *SHORT,
        "callbacks.checkpoints=null",
        "trainer.val_check_interval=2",
        "data.held_out_examples=8",
    )
    stage = tmp_path / "flan5m_chatgpt"
    assert not (stage / "checkpoints").exists() and not (stage / "best").exists()
    rows = read_metrics(stage / "metrics.csv")
    at_end = {name: value for step, name, value in rows if name.startswith("val/") and step == 3}
    groups = {name: value for name, value in at_end.items() if name.startswith("val/loss/")}
    first = (PACKAGE_DIR / "sample/data/held_out.jsonl").read_text().splitlines()[:8]
    assert set(groups) == {f"val/loss/{json.loads(line)['task']}" for line in first}
    assert len(groups) > 3
    assert min(groups.values()) < at_end["val/loss"] < max(groups.values())
    names = {name for _, name, _ in rows}
    assert {"data/response_tokens", "throughput/peak_memory_gib"} <= names
    assert "samples/response_tokens" in names
    card = json.loads((stage / "data_card.json").read_text())
    per_step = [value for _, name, value in rows if name == "data/response_tokens"]
    mean = card["totals"]["target_tokens"] / card["totals"]["examples"]
    assert len(per_step) == 4 and min(per_step) <= mean <= max(per_step)


@pytest.mark.parametrize(("steps", "examples", "is_told"), [(2, 500, True), (4, 29, False)])
def test_a_set_that_a_few_steps_swallow_is_told(
    tmp_path: Path, steps: int, examples: int, is_told: bool
) -> None:
    """Not where a step has few examples: there the run was told to be short."""
    results = {
        "stage": "s", "held_out_loss": None, "exact_answer": None, "steps": steps,
        "examples": examples, "tokens": 9, "target_tokens": 4, "seconds": 1.0, "skipped_steps": 0,
        "truncated": 0,
    }  # fmt: skip
    assert (f"only {steps} step(s); lower" in describe(results, tmp_path)) == is_told
