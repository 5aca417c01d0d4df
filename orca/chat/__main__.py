"""Talk with a student in the terminal.

    python -m orca.chat                                            # what was trained last
    python -m orca.chat model=runs/smollm2_135m-sample/flan1m_gpt4/hf system=5
    echo "What is 2+3?" | python -m orca.chat model=DIR            # the answer alone, for scripts
    python -m orca.chat model=DIR base_url=http://host:8000/v1     # a server (docs/serving.md)

Options are in conf/chat.yaml.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from orca.chat.conversation import Conversation, read_system_message
from orca.chat.model import LocalModel, Model
from orca.chat.terminal import Terminal, answer_once, edited_line
from orca.config import check_config, run_program, to_the_letter
from orca.errors import UserError
from orca.evaluation import Protocol
from orca.training.directory import RESULTS_FILE

OPTIONS = (
    *("model_path", "runs", "system", "temperature", "max_new_tokens", "seed"),
    *("dtype", "device", "template", "base_url", "key_variable"),
)

HERE = {"dtype": "auto", "device": "auto", "template": None}
"""What a server decides by itself, at the defaults."""


def main(config: DictConfig) -> None:
    """Chat, or answer what the standard input asks where it is no terminal."""
    check_config(config, OPTIONS)
    sampling = {name: config[name] for name in ("temperature", "max_new_tokens", "seed")}
    try:
        Protocol("chat", **sampling)  # checks them
    except UserError as error:
        raise UserError(str(error).removeprefix("protocol.")) from None
    conversation = Conversation(read_system_message(str(config.system)))
    try:
        model = _model(config)
        if sys.stdin.isatty():
            Terminal(model, conversation, **sampling, read_line=edited_line()).run()
        else:
            answer_once(model, conversation, **sampling)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # who reads the answer has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _model(config: DictConfig) -> Model:
    for option, at in HERE.items():
        if config.base_url is not None and config.get(option) != at:
            raise UserError(
                f"{option}= is for a model in this process; with base_url= leave it out"
            )
    if config.base_url is None:
        if config.key_variable is not None:
            raise UserError("key_variable= is for a server, which base_url= names")
        name = config.model_path
        if name is None:
            name = str(newest_model(Path(config.runs)))
        return LocalModel(name, config.dtype, config.device, instantiate(config.get("template")))
    if config.model_path is None:
        raise UserError("base_url= needs the name that the model has at the server: model=NAME")
    from orca.chat.server import ServedModel  # its client takes a second to import
    from orca.teacher import Endpoint

    return ServedModel(Endpoint(config.base_url, config.model_path, config.key_variable))


def newest_model(runs: Path) -> Path:
    """The model of the stage that finished last, of plain runs and of jobs of sweeps.

    Raises:
        UserError: none has finished.
    """
    # runs/RUN/STAGE, or runs/RUN/JOB/STAGE
    found = [*runs.glob(f"*/*/{RESULTS_FILE}"), *runs.glob(f"*/*/*/{RESULTS_FILE}")]
    finished = [file for file in found if (file.parent / "hf" / "config.json").is_file()]
    if not finished:
        raise UserError(
            f"no stage has finished in {runs}/: train one (python train.py), or name a model with "
            "model=DIRECTORY; model=smollm2_135m is the embedded one before training"
        )
    return max(finished, key=lambda file: file.stat().st_mtime).parent / "hf"


if __name__ == "__main__":
    # conf/model is a group of train.py, and Hydra would look there for what model= names.
    letters = {"model": "model_path", "system": "system", "base_url": "base_url", "runs": "runs"}
    sys.argv[1:] = to_the_letter(sys.argv[1:], letters, interpolated=False)
    run_program(main, "chat")
