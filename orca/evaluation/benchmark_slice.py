"""A small part of the benchmarks while a student trains: is it getting better, is it still read?"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from tqdm.auto import tqdm

from orca.errors import UserError
from orca.evaluation.ask import ask, check_system_messages
from orca.evaluation.choose import stratified
from orca.evaluation.engine import Prompt
from orca.evaluation.item import Benchmark, Item, Sample
from orca.evaluation.model_engine import ModelEngine
from orca.evaluation.protocol import Protocol
from orca.evaluation.records import Records, fingerprint
from orca.evaluation.scores import grade, score
from orca.traces.system_messages import NUMBERED_MESSAGES
from orca.training import ExplanationTuning
from orca.training.answers import ANSWER_TOKENS, ready_to_answer
from orca.training.sharding import whole_root

LEAST_ROOM = 8
"""Tokens of the context that a prompt must leave: an option's label has fewer."""


class BenchmarkSlice(Callback):
    """Asks a student a fixed part of multiple-choice benchmarks before and after training, and with
    every validation.

    Logs ``eval/<benchmark>/accuracy``, ``…/stated`` and ``…/format_failures`` (plain means over
    tasks, from 0 to 1), prints a line, and leaves ``benchmarks/step-000050/`` in the stage's
    directory: records as `evaluate.py` writes them. Every rank asks everything, rank 0 writes.

    Args:
        directory: the stage's.
        benchmarks: by name; with none, nothing is done.
        protocol: how they are asked.
        fraction: of the items of each task, at least one.
        system_message: its number (:data:`orca.traces.NUMBERED_MESSAGES`).
        every_validation: false: before and after training alone.

    Raises:
        UserError: a benchmark that is not multiple choice, or a number that is not in Table 2; on
            ``setup``, before training, data that is missing; on ``on_train_start``, an item that
            does not fit the model's context.
    """

    def __init__(
        self,
        directory: str,
        benchmarks: Mapping[str, Benchmark],
        protocol: Protocol,
        fraction: float = 0.02,
        system_message: int = 1,
        every_validation: bool = True,
    ) -> None:
        for one in benchmarks.values():
            if one.kind != "multiple_choice":
                raise UserError(
                    f"benchmark=[{one.name}]: only multiple choice is asked while a student "
                    f"trains; afterwards, python evaluate.py model=… benchmark=[{one.name}]"
                )
        check_system_messages([system_message])
        self.directory = Path(directory) / "benchmarks"
        self.benchmarks = list(benchmarks.values())
        self.protocol = protocol
        self.fraction = fraction
        self.system_message = system_message
        self.every_validation = every_validation
        self.items: dict[str, list[Item]] = {}
        self._data: dict[str, str] = {}
        self._asked_step = -1

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not self.items:
            for one in self.benchmarks:
                items = one.items()
                self.items[one.name] = stratified(items, self.fraction)
                self._data[f"data {one.name}"] = fingerprint(items)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.items:
            return
        with _asked(trainer, pl_module) as engine:
            self._check_room(engine)
        if trainer.global_step == 0:
            self.ask(trainer, pl_module)
        elif trainer.is_global_zero:  # steps that will be done again
            for path in self.directory.glob("step-*"):
                if int(path.name.removeprefix("step-")) > trainer.global_step:
                    shutil.rmtree(path)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.every_validation and trainer.state.fn == TrainerFn.FITTING:
            self.ask(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.ask(trainer, pl_module)

    def ask(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask, log, write and print what the step has not been asked yet."""
        step, start = trainer.global_step, time.monotonic()
        if not self.items or step == self._asked_step:
            return
        self._asked_step = step
        chosen = [item for own in self.items.values() for item in own]
        with _asked(trainer, pl_module) as engine:
            model = {
                "engine": "training",
                "model": str(self.directory.parent),
                "step": step,
                "precision": str(trainer.precision),
                **engine.describe(),
            }
            samples = list(ask(engine, chosen, self.protocol, [self.system_message]))
        if trainer.is_global_zero:
            self._write(step, model, samples)
            self._log(trainer, samples, time.monotonic() - start)

    def _check_room(self, engine: ModelEngine) -> None:
        system = NUMBERED_MESSAGES[self.system_message]
        for name, own in self.items.items():
            rooms = {item.id: engine.room(Prompt(item.id, system, item.prompt)) for item in own}
            full = [f"{key} ({engine.context - room:,})" for key, room in rooms.items()
                    if room < LEAST_ROOM]  # fmt: skip
            if full:
                raise UserError(
                    f"benchmark {name}: {len(full)} of the {len(own)} prompts leave no room in the "
                    f"model's context of {engine.context:,} tokens, first {full[0]}: choose tasks "
                    f"with benchmark.{name}.tasks=[…], or leave it out"
                )

    def _write(self, step: int, model: Mapping[str, Any], samples: Sequence[Sample]) -> None:
        directory = self.directory / f"step-{step:06d}"
        shutil.rmtree(directory, ignore_errors=True)  # of a run that was killed here
        asked = {k: v for k, v in dataclasses.asdict(self.protocol).items() if k != "draws"}
        records = Records(directory, {"model": model, "protocol": asked, **self._data})
        for sample in samples:
            records.add(sample)
        records.write()

    def _log(self, trainer: L.Trainer, samples: Sequence[Sample], seconds: float) -> None:
        metrics, told = dict[str, float](), list[str]()
        for name, own in self.items.items():
            average = score(grade([one for one in samples if one.benchmark == name], own))[-1]
            accuracy, stated = average.accuracy.value, average.stated.value
            metrics[f"eval/{name}/accuracy"] = accuracy
            metrics[f"eval/{name}/stated"] = stated
            metrics[f"eval/{name}/format_failures"] = average.format_failures
            told.append(
                f"{name} {accuracy:.1%} of {average.items} items (stated {stated:.1%}, no label "
                f"{average.format_failures:.1%})"
            )
        for logger in trainer.loggers:
            logger.log_metrics(metrics, max(trainer.global_step - 1, 0))
        tqdm.write(  # between two states of the run's bar
            f"step {trainer.global_step}, {self.protocol.name}: {', '.join(told)}; {seconds:.0f} s"
        )
        sys.stdout.flush()


@contextmanager
def _asked(trainer: L.Trainer, pl_module: L.LightningModule) -> Iterator[ModelEngine]:
    """Inside, the student is an engine, in the run's precision."""
    student = cast(ExplanationTuning, pl_module).student
    with (
        trainer.precision_plugin.forward_context(),
        whole_root(student),
        ready_to_answer(student.causal_lm),
    ):
        yield ModelEngine(
            student.causal_lm, pl_module.tokenizer, ANSWER_TOKENS, "train without benchmark=[…]"
        )
