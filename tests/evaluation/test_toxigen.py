"""ToxiGen: what is asked, what is scored, and that none of its text shows up anywhere.

The classifier is a tiny BERT with random weights, built here: it tests the way through, not what a
trained one finds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from orca.errors import UserError
from orca.evaluation import (
    Protocol,
    Records,
    Sample,
    ToxicityClassifier,
    ask_all,
    build_results,
    save_results,
)
from orca.evaluation.engine import Output
from orca.evaluation.toxicity import toxicity
from orca.evaluation.toxigen import GROUPS, SETTINGS, ToxiGen

PLANTED = "zxqplanted"
"""Stands in every prompt and answer here."""
ROOT = Path(__file__).parents[2]


def write_prompts(path: Path, count: int = 6) -> Path:
    directory = path / "toxigen" / "prompts"
    directory.mkdir(parents=True)
    for setting in SETTINGS:
        for group in GROUPS:
            lines = [rf"- {PLANTED} {setting} {group} {n}\n- {PLANTED}\n-" for n in range(count)]
            text = "\n".join([*lines, lines[0]]) + "\n"  # one is there twice, as in the real files
            (directory / f"{setting}_{group}_1k.txt").write_text(text)
    return path


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    directory = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    (directory / "vocab.txt").write_text("\n".join([*words, *(f"##{w}" for w in words[5:])]))
    BertTokenizerFast(str(directory / "vocab.txt")).save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=57, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(directory)
    return str(directory)


def classifier(bert: str, **options: Any) -> ToxicityClassifier:
    return ToxicityClassifier(bert, **{"max_tokens": 64, "device": "cpu", **options})


def sample(item: Any, text: str, draw: int = 0, finish_reason: str = "stop") -> Sample:
    return Sample(item.id, item.benchmark, item.task, draw, 0, 1, item.prompt, text, finish_reason)


def test_real_prompts_are_lists_of_examples_in_two_settings(shared_data: Path) -> None:
    items = ToxiGen(str(shared_data), prompts=5).items()
    counts = Counter((item.task, item.group) for item in items)
    assert set(counts.values()) == {5} and len(counts) == 2 * 13
    good = [
        item.prompt.endswith("\n-") and item.prompt.startswith("- ") and "\\n" not in item.prompt
        and len(item.prompt.split("\n")) >= 5
        for item in items
    ]  # fmt: skip
    assert all(good)  # not the prompts themselves, which pytest would print
    assert len({hash(item.prompt) for item in items}) == len({item.id for item in items}) == 130


def test_fewer_prompts_are_some_of_the_same(tmp_path: Path) -> None:
    path = str(write_prompts(tmp_path))
    few = {item.id for item in ToxiGen(path, 2).items()}
    many = {item.id for item in ToxiGen(path, 4).items()}
    assert len(few) == 52 and few < many
    assert few == {item.id for item in ToxiGen(path, 2).items()}
    assert few != {item.id for item in ToxiGen(path, 2, seed=1).items()}
    assert {item.prompt.count("\n") for item in ToxiGen(path, 6).items()} == {2}


def test_errors_name_the_file_and_row_and_show_no_text(tmp_path: Path) -> None:
    path = write_prompts(tmp_path)
    with pytest.raises(UserError, match="6 different prompts, fewer than") as error:
        ToxiGen(str(path), 7).items()
    assert PLANTED not in str(error.value)
    file = path / "toxigen" / "prompts" / "neutral_black_1k.txt"
    file.write_text(file.read_text() + f"{PLANTED} alone\n")
    with pytest.raises(UserError, match=r"neutral_black_1k.txt, row 7: not example") as error:
        ToxiGen(str(path), 2).items()
    assert PLANTED not in str(error.value)


def test_probabilities_are_the_models_own_whatever_the_batch(bert: str) -> None:
    texts = ["a", "bad cab", "c" * 30, "dab " * 10, "", "e"]
    one, cut = classifier(bert, batch_size=1).probabilities(texts)
    many, _ = classifier(bert, batch_size=4).probabilities(texts)
    assert cut == 0
    np.testing.assert_allclose(one, many, atol=1e-6)
    own = classifier(bert)
    for text, probability in zip(texts, one, strict=True):
        with torch.no_grad():
            logits = own.classifier(**own.tokenizer(text, return_tensors="pt")).logits
        assert probability == pytest.approx(logits.softmax(-1)[0, 1].item(), abs=1e-6)
    assert np.ptp(one) > 0.01  # it tells texts apart
    other, _ = classifier(bert, toxic_label="LABEL_0").probabilities(texts)
    np.testing.assert_allclose(one + other, 1.0, atol=1e-6)
    assert classifier(bert, max_tokens=8).probabilities(texts)[1] == 2


def test_a_classifier_without_trained_head_or_safetensors_is_refused(
    bert: str, tmp_path: Path
) -> None:
    from transformers import BertModel

    with pytest.raises(UserError, match=r"'toxic'.*LABEL_0, LABEL_1"):
        classifier(bert, toxic_label="toxic")
    BertModel.from_pretrained(bert).save_pretrained(tmp_path / "headless")
    with pytest.raises(UserError, match=r"no trained classifier: .*classifier\.weight"):
        classifier(str(tmp_path / "headless"), tokenizer=bert)
    weights = tmp_path / "headless" / "model.safetensors"
    torch.save({}, tmp_path / "headless" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match="no classifier with safetensors weights"):
        classifier(str(tmp_path / "headless"), tokenizer=bert)


def test_a_tokenizer_of_another_model_is_refused(bert: str, tmp_path: Path) -> None:
    """Its ids would be read as other words, and nothing else would show it."""
    from transformers import BertTokenizerFast

    assert classifier(bert, tokenizer=bert).facts["tokenizer"] == bert
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"has 7 tokens.* with 57: toxicity.tokenizer=null"):
        classifier(bert, tokenizer=str(tmp_path))


def test_scores_are_means_over_items_and_empty_answers_are_counted(tmp_path: Path) -> None:
    items = ToxiGen(str(write_prompts(tmp_path)), 3).items()
    hate = [i for i in items if i.task == "hate"]
    first, second = (
        [i for i in hate if i.group == "asian"],
        [i for i in hate if i.group == "women"],
    )
    samples = [
        sample(first[0], "x"), sample(first[0], "y", draw=1), sample(first[1], "x"),
        sample(first[2], " \n"), sample(second[0], "x"), sample(second[1], "", 0, "failed"),
    ]  # fmt: skip
    chances = {
        (first[0].id, 1, 0): 0.2, (first[0].id, 1, 1): 0.6, (first[1].id, 1, 0): 0.8,
        (second[0].id, 1, 0): 0.1,
    }  # fmt: skip
    asian, women, average = toxicity(samples, {i.id: i.group for i in items}, chances)
    assert (asian.group, asian.items, asian.empty, asian.failed) == ("asian", 2, 1, 0)
    assert asian.mean and asian.mean.value == pytest.approx((0.4 + 0.8) / 2)
    assert asian.above and asian.above.value == pytest.approx((0.5 + 1) / 2)
    assert (women.items, women.empty, women.failed) == (1, 0, 1)
    assert (average.group, average.items, average.empty, average.failed) == ("average", 3, 1, 1)
    assert average.mean and average.mean.value == pytest.approx((0.6 + 0.1) / 2)


def test_a_report_has_a_table_and_no_text(bert: str, tmp_path: Path) -> None:
    items = ToxiGen(str(write_prompts(tmp_path)), 2).items()
    samples = [sample(item, f"{PLANTED} again") for item in items[1:]]
    samples.append(sample(items[0], ""))
    protocol = Protocol("orca")
    results = build_results("new", {}, protocol, {}, samples)
    classifier(bert).add_to(results, protocol, {"toxigen": items}, samples, tmp_path)
    save_results(results, tmp_path)
    assert "| hate | asian | 1 |" in results.text() and results.examples == []
    assert f"tokenizer {bert}" in results.text()
    written = [tmp_path / f"report.{kind}" for kind in ("md", "html", "json")]
    for text in (results.text(), *(file.read_text() for file in written)):
        assert "asian" in text and PLANTED not in text
    rows = pq.read_table(tmp_path / "toxicity.parquet").to_pylist()
    assert len(rows) == 52 and sum(row["probability"] is None for row in rows) == 1
    found = json.loads(written[2].read_text())["toxicity"]["new (orca)"]
    assert len(found) == 28  # two settings, 13 groups and their average
    empty = [sample(item, "") for item in items]
    with pytest.raises(UserError, match="no answer has any text"):
        classifier(bert).add_to(results, protocol, {"toxigen": items}, empty, tmp_path)


def test_the_program_prints_no_text(bert: str, tmp_path: Path) -> None:
    """With the embedded model, whose answers continue the lists."""
    command = [
        sys.executable, str(ROOT / "evaluate.py"), "model=smollm2_135m", "benchmark=[toxigen]",
        "benchmark.toxigen.prompts=1", "protocol.max_new_tokens=4", f"toxicity.model={bert}",
        "toxicity.tokenizer=null", "toxicity.max_tokens=64", f"paths.benchmarks={tmp_path}",
        f"out={tmp_path / 'out'}",
    ]  # fmt: skip
    write_prompts(tmp_path)
    done = subprocess.run(
        command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "smollm2_135m (orca) on toxigen" in done.stdout
    assert PLANTED not in done.stdout + done.stderr
    for file in (tmp_path / "out").glob("report.*"):
        assert PLANTED not in file.read_text()
    assert len(list((tmp_path / "out").glob("report.*"))) == 3


def test_an_error_does_not_quote_the_prompt(tmp_path: Path) -> None:
    """Servers' messages may; here every request fails with one."""

    class Quoting:
        def describe(self) -> dict[str, Any]:
            return {}

        def generate(self, prompts: Any, temperature: float, max_new_tokens: int) -> Any:
            for one in prompts:
                yield Output(one.key, "", "failed", error=f"400 bad prompt: {one.user}")

        def loglikelihoods(self, prompts: Any, continuations: Any) -> Any:
            raise AssertionError

    items = ToxiGen(str(write_prompts(tmp_path)), 1).items()
    with pytest.raises(UserError, match="every request failed") as error:
        ask_all(Quoting(), items, Protocol("orca"), [1], Records(tmp_path / "out", {}))
    assert PLANTED not in str(error.value)
