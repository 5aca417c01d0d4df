"""Orca 2's recipe (arXiv 2311.11045, section 4.2) on the sample: three stages, ChatML, erased
prompts."""

import json
from pathlib import Path

import pytest
from conftest import compose_config
from hydra.utils import instantiate
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from orca.config import CONF_DIR
from orca.training import train_stage

OPTIONS = (
    "model=tiny",
    "stage=orca2",
    "template=chatml",
    "logger=csv",
    "precision=32-true",
    "trainer.max_steps=2",
    "data.held_out_examples=4",
    "callbacks.answers.questions=2",
    "callbacks.answers.max_new_tokens=4",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("orca2")
    config = compose_config(*OPTIONS, run_dir=directory)
    assert list(config.stages) == ["orca2_flan", "orca2_chatgpt", "orca2_gpt4"]
    assert [stage.epochs for stage in config.stages.values()] == [1, 3, 4]
    for name in config.stages:
        train_stage(config, str(name))
    return directory


def test_every_stage_begins_with_the_model_of_the_one_before(run: Path) -> None:
    for first, second in (("orca2_flan", "orca2_chatgpt"), ("orca2_chatgpt", "orca2_gpt4")):
        handoff = json.loads((run / first / "results.json").read_text())["handoff"]
        assert handoff == json.loads((run / first / "hf/orca.json").read_text())
        later = json.loads((run / second / "hf/orca.json").read_text())
        assert later["started_from"]["weights"] == handoff["weights"] != later["weights"]


def test_the_student_sees_answers_first_and_never_the_erased_messages(run: Path) -> None:
    config = compose_config(*OPTIONS)
    tokenizer = AutoTokenizer.from_pretrained(run / "orca2_gpt4/hf")
    assert tokenizer.eos_token == "<|im_end|>"

    def traces(part: str) -> tuple[list, list]:
        data = instantiate(config.data, _partial_=True)(
            part=part, epochs=1, tokenizer=tokenizer, template=instantiate(config.template)
        )
        return [data.source[i] for i in range(50)], data.held_out_traces()

    for trace in [*traces("flan")[0], *traces("flan")[1]]:
        assert (
            trace.system_message == "" and trace.response == f"The answer is {trace.gold_answer}."
        )
    orca, held_out = traces("chatgpt")
    assert len({trace.system_message for trace in orca}) > 5
    assert any(trace.system_message for trace in held_out)
    for trace in [*traces("orca2")[0], *traces("orca2")[1]]:
        assert trace.system_message.startswith("You are Orca") and "\n" not in trace.system_message
        assert trace.response != f"The answer is {trace.gold_answer}."


def test_the_data_are_where_the_other_programs_write_them() -> None:
    """``orca.mixture out=DIR/flan`` has a directory for each set, ``collect.py out=DIR/orca2`` one
    of traces."""
    parts = compose_config("data=orca2", "data.path=DIR").data.parts
    sets = OmegaConf.load(CONF_DIR / "mixture" / "flan.yaml").sets
    assert parts.flan.files in [f"flan/{name}/*.parquet" for name in sets]
    assert parts.orca2[1].files == "orca2/traces/*.parquet"
