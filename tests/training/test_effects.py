"""Each setting does what it says: a run that ignored it would fail here."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import compose_config
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from safetensors.torch import load_file
from test_stage import FAST, train

from orca.config import PACKAGE_DIR
from orca.errors import Unfinished, UserError
from orca.training import Cosine, HeldOutAnswers, newest_checkpoint, read_metrics
from orca.training.directory import open_run

STEPS = [*FAST, "trainer.max_steps=6", "trainer.val_check_interval=2"]


def values(stage: Path, name: str) -> dict[int, float]:
    return {s: v for s, found, v in read_metrics(stage / "metrics.csv") if found == name}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages, six steps each, bfloat16 export, a learning rate that makes validation rise."""
    run_dir = tmp_path_factory.mktemp("effects")
    options = ["stage=progressive", "model.export_dtype=bfloat16", "optimizer.lr=0.01"]
    train(run_dir, *STEPS, *options)
    return run_dir


def test_the_learning_rate_follows_the_schedule_and_the_stages_scale(stages: Path) -> None:
    schedule = Cosine(0.03, 0.0)
    for stage, peak in (("flan5m_chatgpt", 0.01), ("flan1m_gpt4", 0.005)):
        logged = values(stages / stage, "train/lr")
        wanted = {step: peak * schedule((step + 0.5) / 6) for step in range(6)}
        assert logged == pytest.approx(wanted)
        assert wanted[5] < 0.1 * peak < wanted[1]


def test_the_optimizer_gets_the_stages_learning_rate() -> None:
    from orca.training import AdamW

    group = AdamW(1e-3).build(torch.nn.Linear(2, 2), 0.25).param_groups[0]
    assert group["lr"] == 2.5e-4
    with pytest.raises(UserError, match=r"optimizer\.lr=nan"):
        AdamW(float("nan"))


def test_the_schedule_ends_with_the_data_where_max_steps_is_further(tmp_path: Path) -> None:
    options = [*FAST, "data.max_tokens=2048", "data.global_batch=64", "trainer.max_steps=500"]
    train(tmp_path, *options)
    logged = values(tmp_path / "flan5m_chatgpt", "train/lr")
    assert 2 < len(logged) < 20 and logged[max(logged)] < 0.2 * max(logged.values())


def test_the_gradient_is_clipped_to_the_configured_norm(tmp_path: Path) -> None:
    """Plain SGD with a learning rate of 1 moves the weights by exactly the clipped gradient."""
    from conftest import ORCA_TEMPLATE
    from hydra.utils import instantiate
    from test_module import data

    from orca.training import Constant, ExplanationTuning, byte_tokenizer

    tokenizer = byte_tokenizer()
    ORCA_TEMPLATE.prepare(tokenizer)
    moved = {}
    for clip in (0.0, 0.1):
        module = ExplanationTuning(
            pretrained=instantiate(compose_config("model=tiny").model),
            tokenizer=tokenizer,
            optimizer=PlainSgd(),  # type: ignore[arg-type]
            scheduler=Constant(0.0),
            gradient_clip=clip,
        )
        module.configure_model()
        before = [p.detach().clone() for p in module.student.parameters()]
        trainer = torch_trainer()
        trainer.fit(module, data(tmp_path, tokenizer, global_batch=64))
        after = list(module.student.parameters())
        squares = [(a.detach() - b).square().sum() for a, b in zip(after, before, strict=True)]
        moved[clip] = float(torch.stack(squares).sum().sqrt())
    assert moved[0.1] == pytest.approx(0.1, rel=1e-3) and moved[0.0] > 1


class PlainSgd:
    """Stands in for AdamW, whose step hides the gradient's length."""

    lr = 1.0

    def build(self, module: torch.nn.Module, lr_scale: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), lr=1.0)


def torch_trainer() -> Any:
    import lightning as L

    return L.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )


def test_validation_loss_is_the_mean_over_all_target_tokens(stages: Path) -> None:
    """Reference: the exported model's own loss, example by example (bfloat16 weights)."""
    from hydra.utils import instantiate
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from orca.stream import Example

    hf = stages / "flan5m_chatgpt" / "hf"
    tokenizer = AutoTokenizer.from_pretrained(hf)
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    config = compose_config(*STEPS)
    datamodule = instantiate(config.data, _partial_=True)(
        part="chatgpt", epochs=1, tokenizer=tokenizer, template=instantiate(config.template)
    )
    total = count = 0.0
    for example in datamodule.encoder.encode(datamodule.held_out_traces()):
        assert isinstance(example, Example)
        ids = torch.from_numpy(example.tokens).long()[None]
        labels = ids.clone()
        labels[:, : example.num_prompt] = -100
        with torch.no_grad():
            total += float(model(ids, labels=labels).loss) * example.num_targets
        count += example.num_targets
    logged = values(stages / "flan5m_chatgpt", "val/loss")
    assert logged[max(logged)] == pytest.approx(total / count, rel=5e-3)
    rows = read_metrics(stages / "flan5m_chatgpt" / "metrics.csv")
    assert [s for s, n, _ in rows if n == "val/loss"] == sorted({*logged})  # each once


def test_the_best_weights_are_those_of_the_lowest_validation_loss(stages: Path) -> None:
    for stage in ("flan5m_chatgpt", "flan1m_gpt4"):
        logged = values(stages / stage, "val/loss")
        trained = {step: loss for step, loss in logged.items() if step > 0}
        best = json.loads((stages / stage / "best/orca.json").read_text())
        assert best["held_out_loss"] == pytest.approx(min(trained.values()))
        weights = load_file(stages / stage / "best/model.safetensors")
        final = load_file(stages / stage / "hf/model.safetensors")
        same = all(torch.equal(weights[name], final[name]) for name in final)
        assert same == (best["step"] == 6)


def test_weights_are_exported_in_the_configured_precision(stages: Path) -> None:
    hf = stages / "flan5m_chatgpt" / "hf"
    weights = load_file(hf / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert json.loads((hf / "config.json").read_text())["dtype"] == "bfloat16"
    assert "lm_head.weight" not in weights  # tied to the embedding, stored once


def test_the_share_of_exact_answers_counts_right_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generation is replaced here (a random model answers nothing right): one of four is right."""
    from orca.training import callbacks

    def answers(model: Any, tokenizer: Any, template: Any, queries: Any, *_: Any) -> list[str]:
        golds = [t.gold_answer for t in seen["traces"]]
        return [f"The answer is {golds[0]}.", *["The answer is zebra."] * (len(queries) - 1)]

    seen: dict[str, Any] = {}
    held_out = callbacks.TraceDataModule.held_out_traces

    def remember(self: Any) -> Any:
        seen["traces"] = held_out(self)
        return seen["traces"]

    monkeypatch.setattr(callbacks.TraceDataModule, "held_out_traces", remember)
    monkeypatch.setattr(callbacks, "generate", answers)
    options = ["callbacks.answers.questions=4", "trainer.max_steps=1"]
    results = train(tmp_path, *FAST, *options)
    assert results["exact_answer"] == {"before": 0.25, "after": 0.25}
    assert HeldOutAnswers.__doc__ and len(seen["traces"]) == 4


def test_a_run_out_of_time_is_unfinished_and_goes_on(tmp_path: Path) -> None:
    options = [*FAST, "epochs=30"]
    with pytest.raises(Unfinished, match=r"stopped after step \d+, \d+% of the data.*resume=auto"):
        train(tmp_path, *options, "trainer.max_time=00:00:00:02")
    stage = tmp_path / "flan5m_chatgpt"
    assert not (stage / "results.json").exists() and not (stage / "hf").exists()
    done = max(values(stage, "train/loss")) + 1
    config = compose_config(*options, "resume=auto", run_dir=tmp_path)
    finished, resuming = open_run(stage, config)
    checkpoint = newest_checkpoint(stage / "checkpoints")
    assert resuming and not finished and checkpoint is not None and checkpoint[0] == done


def test_a_run_goes_on_where_its_data_has_moved_and_not_with_other_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(PACKAGE_DIR / "sample" / "data", moved)
    options = [*FAST, "epochs=30", "trainer.max_time=00:00:00:02"]
    with pytest.raises(Unfinished, match="stopped after step"):
        train(run, *options)
    with pytest.raises(Unfinished, match="stopped after step"):
        train(run, *options, "resume=auto", f"data.path={moved}")
    said = capsys.readouterr().out
    assert "goes on with data from another place" in said and "resuming after step" in said
    saved = OmegaConf.load(run / "flan5m_chatgpt" / "config.yaml")
    assert saved.data.path == str(moved)
    traces = moved / "stage1_train.jsonl"
    traces.write_text(traces.read_text().replace("the", "teh", 1))
    with pytest.raises(UserError, match=r"made on another stream and cannot go on \(data: "):
        train(run, *options, "resume=auto", f"data.path={moved}")


def test_a_run_goes_on_where_only_other_stages_parts_have_changed(tmp_path: Path) -> None:
    """Also one of a version that had fewer parts."""
    config = compose_config("model=tiny", "stage=flan5m_chatgpt", "resume=auto", run_dir=tmp_path)

    def saved(**parts: Any) -> tuple[bool, bool]:
        old = copy.deepcopy(config)
        old.data.parts = {"chatgpt": "stage1_train.jsonl", "gpt4": "stage2_train.jsonl", **parts}
        OmegaConf.save(old, tmp_path / "config.yaml")
        return open_run(tmp_path, config)

    assert saved() == (False, True) == saved(more="another.jsonl")
    with pytest.raises(UserError, match=r"data\.parts\.chatgpt: other\.jsonl → stage1"):
        saved(chatgpt="other.jsonl")


def test_a_mistake_costs_neither_the_old_run_nor_the_name(tmp_path: Path) -> None:
    wrong = [*FAST, "trainer.max_steps=2", "data.parts.chatgpt=nowhere.jsonl"]
    right = [*FAST, "trainer.max_steps=2"]
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        train(tmp_path, *wrong)
    results = train(tmp_path, *right)
    with pytest.raises(InstantiationException, match="epochs=0 of the stage"):
        train(tmp_path, *right, "overwrite=true", "epochs=0")
    assert json.loads((tmp_path / "flan5m_chatgpt/results.json").read_text()) == results


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["gradient_clip=-1"], "gradient_clip=-1"),
        (["loss_chunk=0"], "loss_chunk=0"),
        (["seed=-1"], "seed=-1"),
        (["data.num_workers=-1"], "num_workers=-1"),
        (["+trainer.max_epochs=3"], "epochs=N"),
        (["+trainer.foo=3"], r"trainer\.foo is no argument"),
        (["trainer.val_check_interval=0.5"], "Trainer"),
        (["data.max_tokens=60"], "no validation trace fits"),
        (["data.held_out=null", "data.held_out_fraction=0.99999"], "no example is left"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_in_words(
    tmp_path: Path, options: list[str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        train(tmp_path, *FAST, "trainer.max_steps=2", *options)


def test_attention_variants_that_a_backend_lacks_are_refused() -> None:
    from test_attention import pack_of
    from transformers import MistralConfig, MistralForCausalLM

    from orca.training import Student, implementation

    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=96,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            sliding_window=8,
        )
    )
    model.set_attn_implementation(implementation("documents"))
    student = Student(model)
    student(pack_of((8, 5)))  # within the window both are the same
    with pytest.raises(UserError, match="sliding_window=8 on an example of 9 tokens"):
        student(pack_of((9, 5)))
