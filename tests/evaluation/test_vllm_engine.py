"""Engine `vllm` asks and reads as engine `hf` does.

vLLM needs a GPU or a build of its own for CPUs and is no part of the development set-up, so most
tests give the engine a stand-in: it takes what `vllm.LLM` takes, gives back what vLLM gives back,
and computes with `transformers`. What the stand-in was given and gave is compared with the real
package where that is installed; a slow test there lets vLLM answer.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import test_hf_engine
import torch
from conftest import CHATML_TEMPLATE
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from test_hf_engine import CONTEXT, END_TOKENS, PROMPTS
from transformers import AutoModelForCausalLM

from orca.config import CONF_DIR
from orca.errors import UserError
from orca.evaluation.engine import Prompt
from orca.evaluation.hf_engine import HFEngine
from orca.evaluation.vllm_engine import VLLMEngine
from orca.training import Pretrained

tiny = test_hf_engine.tiny  # a random Llama with a byte tokenizer


class StandInEngine:
    """In the place of `vllm.LLMEngine`: one request a step, the last one first."""

    def __init__(self, model: Any, max_model_len: int) -> None:
        self.model = model
        self.model_config = SimpleNamespace(max_model_len=max_model_len, dtype=model.dtype)
        self.waiting: list[tuple[str, list[int], Any]] = []
        self.params: list[dict[str, Any]] = []

    def add_request(self, request_id: str, prompt: dict[str, Any], params: Any) -> None:
        assert len(prompt["prompt_token_ids"]) < self.model_config.max_model_len  # as vLLM has it
        self.waiting.append((request_id, prompt["prompt_token_ids"], params))
        self.params.append(vars(params))

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    @torch.inference_mode()
    def step(self) -> list[SimpleNamespace]:
        request_id, ids, params = self.waiting.pop()
        logprobs = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        known = [None] + [
            {token: SimpleNamespace(logprob=float(row[token]))}
            for row, token in zip(logprobs, ids[1:], strict=False)
        ]
        new, reason, generator = list[int](), "length", torch.Generator()
        generator.manual_seed(getattr(params, "seed", 0))
        while len(new) < params.max_tokens:
            logits = self.model(torch.tensor([[*ids, *new]])).logits[0, -1]
            if params.temperature == 0:
                new.append(int(logits.argmax()))
            else:
                shares = (logits / params.temperature).softmax(-1)
                new.append(int(torch.multinomial(shares, 1, generator=generator)))
            if new[-1] in getattr(params, "stop_token_ids", ()):
                reason = "stop"
                break
        return [
            SimpleNamespace(
                request_id=request_id,
                finished=True,
                prompt_logprobs=known if getattr(params, "prompt_logprobs", None) == 0 else None,
                outputs=[SimpleNamespace(token_ids=new, finish_reason=reason)],
                metrics=SimpleNamespace(scheduled_ts=1.0, last_token_ts=3.5),
            )
        ]


class StandInLLM:
    """In the place of `vllm.LLM`."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        dtype = getattr(torch, arguments["dtype"])
        model = AutoModelForCausalLM.from_pretrained(arguments["model"], dtype=dtype)
        longest = arguments["max_model_len"] or model.config.max_position_embeddings
        self.llm_engine = StandInEngine(model, longest)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[StandInLLM]]:
    """Puts the stand-in where `import vllm` finds it; the LLMs that were made."""
    made: list[StandInLLM] = []

    def make(**arguments: Any) -> StandInLLM:
        made.append(StandInLLM(**arguments))
        return made[-1]

    class Platform:
        @staticmethod
        def get_device_name() -> str:
            return "stand-in"

    names: dict[str, dict[str, Any]] = {
        "vllm": {
            "LLM": make,
            "SamplingParams": SimpleNamespace,
            "TokensPrompt": dict,
            "__version__": "0",
        },
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY=2)},
        "vllm.platforms": {"current_platform": Platform},
    }
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    yield made


@pytest.fixture
def engine(tiny: Path, stand_in: list[StandInLLM]) -> VLLMEngine:
    return VLLMEngine(str(tiny), dtype="float32")


@pytest.fixture(scope="module")
def hf_engine(tiny: Path) -> HFEngine:
    return HFEngine(str(tiny), device="cpu")


def test_greedy_answers_are_those_of_engine_hf(engine: VLLMEngine, hf_engine: HFEngine) -> None:
    """All of an output but its latency; END_TOKENS end answers and never show in a text."""
    found, expected = (
        {o.key: dataclasses.replace(o, latency=0.0) for o in one.generate(PROMPTS, 0.0, 40)}
        for one in (engine, hf_engine)
    )
    assert found == expected
    assert {output.finish_reason for output in found.values()} == {"stop", "length"}
    assert {output.latency for output in engine.generate(PROMPTS[:2], 0.0, 3)} == {2.5}


def test_log_likelihoods_are_those_of_engine_hf(engine: VLLMEngine, hf_engine: HFEngine) -> None:
    options = [["A", "B", "a long option", ""] if i % 2 else [" (A)"] for i in range(len(PROMPTS))]
    found = dict(engine.loglikelihoods(PROMPTS, options))
    expected = dict(hf_engine.loglikelihoods(PROMPTS, options))
    assert set(found) == set(expected) == {prompt.key for prompt in PROMPTS}
    for key, scores in expected.items():
        assert found[key] == pytest.approx(scores, abs=1e-4)
    assert len({score for scores in expected.values() for score in scores}) > len(PROMPTS)


def test_each_answer_is_drawn_by_its_own_seed(
    engine: VLLMEngine, stand_in: list[StandInLLM]
) -> None:
    prompts = [Prompt(f"{i}", "", "Tell me.", seed=i // 2) for i in range(8)]
    texts = {output.key: output.text for output in engine.generate(prompts, 0.7, 30)}
    assert all(texts[f"{i}"] == texts[f"{i + 1}"] for i in range(0, 8, 2))
    assert len(set(texts.values())) == 4
    assert {params["temperature"] for params in stand_in[0].llm_engine.params} == {0.7}


def test_a_prompt_without_room_fails_and_an_answer_ends_with_the_context(
    engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.decoder, "end_ids", set())
    frame = len(engine.encode([engine.render(Prompt("", "", ""))])[0])
    prompts = [Prompt(f"{n}", "", "x" * (n - frame)) for n in (CONTEXT, CONTEXT - 1, CONTEXT - 7)]
    outputs = {output.key: output for output in engine.generate(prompts, 0.0, 50)}
    long = outputs[f"{CONTEXT}"]
    assert (long.finish_reason, long.text) == ("failed", "")
    assert f"{CONTEXT} tokens leave no room in the model's {CONTEXT}" in long.error
    assert [outputs[f"{CONTEXT - n}"].new_tokens for n in (1, 7)] == [1, 7]
    with pytest.raises(UserError, match=f"{CONTEXT + 1} tokens are more than the model's"):
        list(engine.loglikelihoods([prompts[0]], [["y"]]))
    with pytest.raises(UserError, match=f"fills the model's {CONTEXT} tokens.*engine=hf"):
        list(engine.loglikelihoods([prompts[1]], [["y"]]))


def test_an_answer_that_vllm_gives_up_is_an_error(
    engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SimpleNamespace(token_ids=[], finish_reason="abort")
    result = SimpleNamespace(request_id="0", finished=True, outputs=[answer])
    monkeypatch.setattr(engine.decoder.engine, "step", lambda: [result])
    with pytest.raises(UserError, match=r"gave an answer up \(abort\)"):
        list(engine.generate(PROMPTS[:1], 0.0, 5))


@pytest.mark.parametrize("temperature", [0.001, 2.1])
def test_temperatures_that_vllm_would_change_are_refused(
    engine: VLLMEngine, temperature: float
) -> None:
    with pytest.raises(UserError, match=r"0\.01 to 2; engine=hf"):
        list(engine.generate(PROMPTS[:1], temperature, 5))


def test_end_tokens_are_those_of_engine_hf_with_and_without_a_file_of_their_own(
    tiny: Path, stand_in: list[StandInLLM], tmp_path: Path
) -> None:
    for file in tiny.iterdir():
        if file.name != "generation_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": [7, 9]}))
    found = []
    for directory in (tiny, tmp_path):
        found.append(VLLMEngine(str(directory), dtype="float32").decoder.end_ids)
        assert found[-1] == HFEngine(str(directory), device="cpu").decoder.end_ids
    assert set(END_TOKENS) <= found[0] != found[1] >= {7, 9}


def test_weights_are_safetensors_and_no_code_of_others_runs(
    tiny: Path, stand_in: list[StandInLLM], tmp_path: Path
) -> None:
    """Also where the options are the user's; a directory with other weights is refused before."""
    with initialize_config_dir(str(CONF_DIR.resolve()), version_base="1.3"):
        overrides = ["engine.tensor_parallel_size=8", "engine.max_model_len=200"]
        config = compose(overrides=["+engine=vllm", "template@engine.template=orca", *overrides])
    config.engine.model = str(tiny)
    config.engine.dtype = "float32"
    engine = instantiate(config.engine, _convert_="all")
    arguments = stand_in[0].arguments
    assert arguments["load_format"] == "safetensors" and arguments["trust_remote_code"] is False
    assert (arguments["tensor_parallel_size"], engine.context) == (8, 200)
    facts = engine.describe()
    assert (facts["tensor_parallel_size"], facts["dtype"], facts["vllm"]) == (8, "float32", "0")
    assert facts["weights"] == HFEngine(str(tiny), device="cpu").describe()["weights"]
    json.dumps(facts)
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="has no safetensors"):
        VLLMEngine(str(tmp_path))
    assert len(stand_in) == 1


def test_what_cannot_be_is_refused_with_the_way_out(
    tiny: Path, stand_in: list[StandInLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"engine\.dtype=int8"):
        VLLMEngine(str(tiny), dtype="int8")
    with pytest.raises(UserError, match=r"does not know <\|im_end\|>"):
        VLLMEngine(str(tiny), template=CHATML_TEMPLATE)

    def refuse(**arguments: Any) -> None:
        raise ValueError("24 heads\ncannot be spread over 5 GPUs")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", refuse)
    with pytest.raises(UserError, match=r"24 heads cannot be.*engine\.tensor_parallel_size"):
        VLLMEngine(str(tiny))
    monkeypatch.setitem(sys.modules, "vllm", None)  # what Python does without the package
    with pytest.raises(UserError, match=r"pip install -e '\.\[vllm\]'"):
        VLLMEngine(str(tiny))


def test_the_stand_in_takes_and_gives_what_vllm_does(
    tiny: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every argument and field that the engine uses is one of the installed vLLM."""
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed: pip install -e '.[vllm]'")
    made = request.getfixturevalue("stand_in")
    engine = VLLMEngine(str(tiny), dtype="float32")
    list(engine.generate(PROMPTS[:1], 0.7, 2))
    list(engine.loglikelihoods(PROMPTS[:1], [["A"]]))
    monkeypatch.undo()  # takes the stand-in away
    kinds = importlib.import_module("vllm.sampling_params").RequestOutputKind
    platform = importlib.import_module("vllm.platforms").current_platform
    stats = importlib.import_module("vllm.v1.metrics.stats").RequestStateStats
    logprobs = importlib.import_module("vllm.logprobs")
    vllm.EngineArgs(**made[0].arguments)
    assert set(inspect.signature(vllm.LLM.__init__).parameters) >= {"model", "dtype", "kwargs"}
    for given in made[0].llm_engine.params:
        params = vllm.SamplingParams(**{**given, "output_kind": kinds.FINAL_ONLY})
        assert (params.top_p, params.top_k, params.repetition_penalty) == (1.0, 0, 1.0)
    assert len(made[0].llm_engine.params) == 2
    assert set(vllm.TokensPrompt.__required_keys__) == {"prompt_token_ids"}
    inspect.signature(vllm.LLMEngine.add_request).bind(None, "0", {}, params)
    inspect.signature(vllm.LLMEngine.step).bind(None)
    inspect.signature(vllm.LLMEngine.has_unfinished_requests).bind(None)
    assert set(inspect.signature(vllm.RequestOutput).parameters) >= {
        *("request_id", "finished", "outputs", "prompt_logprobs", "metrics")
    }
    for kind, names in (
        (vllm.CompletionOutput, {"token_ids", "finish_reason"}),
        (stats, {"scheduled_ts", "last_token_ts"}),
        (logprobs.Logprob, {"logprob"}),
    ):
        assert {field.name for field in dataclasses.fields(kind)} >= names
    assert logprobs.create_prompt_logprobs(False) == [None]
    assert callable(platform.get_device_name)  # it needs the device


@pytest.mark.slow
def test_vllm_answers_as_engine_hf_does(
    smollm2: Pretrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real package, where it is installed: greedy texts and log-likelihoods of SmolLM2."""
    pytest.importorskip("vllm", reason="vLLM is not installed: pip install -e '.[vllm]'")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, of builds for CPUs
    users = ["2+2=", "Name a colour.", "Which letter follows A?", "Say no.", "Is 2 even?"]
    prompts = [Prompt(user, "Be brief." if i % 2 else "", user, i) for i, user in enumerate(users)]
    options = [[" A", " B", " a long option"]] * len(prompts)
    known = HFEngine("smollm2_135m", dtype="float32", device="cpu")
    texts = {output.key: output.text for output in known.generate(prompts, 0.0, 12)}
    scores = dict(known.loglikelihoods(prompts, options))
    engine = VLLMEngine("smollm2_135m", dtype="float32", max_model_len=512)
    outputs = list(engine.generate(prompts, 0.0, 12))
    assert {output.key: output.text for output in outputs} == texts
    assert {output.finish_reason for output in outputs} == {"stop", "length"}
    assert all(0 < output.latency < 600 for output in outputs)
    for key, found in engine.loglikelihoods(prompts, options):
        assert found == pytest.approx(scores.pop(key), abs=1e-3)
    assert not scores
    drawn = [[o.text for o in engine.generate(prompts, 0.7, 12)] for _ in range(2)]
    assert sorted(drawn[0]) == sorted(drawn[1])
