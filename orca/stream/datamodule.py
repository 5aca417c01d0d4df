"""The LightningDataModule: explanation traces in curriculum order, as optimizer steps."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L

from orca.errors import UserError
from orca.stream.audit import AuditFindings, audit_packs
from orca.stream.batches import StepBatch, StepLoader
from orca.stream.card import DataCard
from orca.stream.curriculum import Curriculum
from orca.stream.encode import Encoder
from orca.stream.packing import Pack
from orca.stream.stream import PackStream, StreamPack, StreamState
from orca.stream.validation import ValidationLoader, pack_by_group
from orca.stream.windows import ON_BAD_ROW_HINT, HeldOut, query_hash
from orca.traces import BadRow, Files, Shown, Template, Trace, TraceSource

AUDITED_PACKS = 32


class TraceDataModule(L.LightningDataModule):
    """Streams one stage's traces.

    Args:
        name: the data's name, for run directories and cards.
        path: directory (or URL) for relative file names.
        format: the reader's name, a key of ``orca.traces.READERS``.
        parts: files by part (:data:`orca.traces.Files`); a stage names the part that it trains on
            (``chatgpt``, ``gpt4``), which is also the teacher where rows name none.
        held_out: files of validation traces, shown as the part's are, or None to hold out
            ``held_out_fraction`` of the queries (by a hash of the query's text) of the stage's
            own part.
        held_out_examples: most traces used for validation.
        system_message: what the student sees in place of the traces' own, in validation as well;
            None keeps theirs. Orca 2 (arXiv 2311.11045) calls it prompt erasing.
        answers_only: the responses are the gold answers alone, in validation as well.
        on_bad_row: ``fail`` names the file and row and stops; ``skip`` counts and lists.
        max_tokens: capacity of a pack and longest example (2,048 in section 3.2).
        window: examples of a packing window.
        packing: False gives every example a pack of its own.
        isolate: False lets training's examples attend to those before them in their pack.
        global_batch: packs of one optimizer step, whatever the number of ranks.
        micro_batch: packs of one forward pass.
        part, epochs, tokenizer, template: given by the program for the stage.
    """

    def __init__(
        self,
        *,
        name: str,
        path: str | None,
        format: str,
        parts: Mapping[str, Files],
        held_out: Files | None,
        held_out_fraction: float,
        held_out_examples: int,
        system_message: str | None,
        answers_only: bool,
        on_bad_row: str,
        curriculum: Curriculum,
        max_tokens: int,
        window: int,
        packing: bool,
        isolate: bool,
        global_batch: int,
        micro_batch: int,
        num_workers: int,
        seed: int,
        part: str,
        epochs: float,
        tokenizer: Any,
        template: Template,
    ) -> None:
        super().__init__()
        if part not in parts:
            raise UserError(f"the stage wants part {part!r}; data={name} has {', '.join(parts)}")
        if on_bad_row not in ("fail", "skip"):
            raise UserError(f"data.on_bad_row={on_bad_row!r} must be fail or skip")
        if num_workers < 0:
            raise UserError(f"data.num_workers={num_workers} must not be negative")
        for option, value in (
            ("max_tokens", max_tokens),
            ("window", window),
            ("global_batch", global_batch),
            ("micro_batch", micro_batch),
        ):
            if value < 1:
                raise UserError(f"data.{option}={value} must be at least 1")
        if not 0 <= held_out_fraction < 1:
            raise UserError(f"data.held_out_fraction={held_out_fraction} must lie in [0, 1)")
        if held_out is not None and held_out_fraction:
            raise UserError("data.held_out and data.held_out_fraction exclude each other")
        self.name, self.part = name, part
        source = functools.partial(TraceSource, root=path, teacher=part)
        shown = Shown(format, system_message, answers_only)
        self.source = source(parts[part], **asdict(shown))
        # Validation traces look like those of the part, where these look alike.
        shown = self.source.shown or shown
        self.held_out = source(held_out, **asdict(shown)) if held_out else None
        self.held_out_fraction, self.held_out_examples = held_out_fraction, held_out_examples
        self.on_bad_row, self.curriculum = on_bad_row, curriculum
        self.max_tokens, self.window = max_tokens, window
        self.packing, self.isolate = packing, isolate
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.num_workers, self.seed, self.epochs = num_workers, seed, epochs
        self.tokenizer, self.template = tokenizer, template
        self.encoder = Encoder(tokenizer, template, max_tokens)
        self.stream_state = StreamState()
        self.examples_read = 0.0
        self.seconds = 0.0
        self._last_step = 0.0
        self.card = DataCard(f"{name}, {part}", max_tokens, self.facts())
        self._held_out_traces: list[Trace] | None = None
        self._held_out_packs: dict[str, list[Pack]] | None = None
        self._loader: StepLoader | None = None

    def facts(self) -> dict[str, Any]:
        """What decides the stream; a resume with other facts is refused."""
        return {
            "data": self.source.fingerprint,
            "curriculum": self.curriculum.describe(),
            "seed": self.seed,
            "epochs": self.epochs,
            "packing": f"capacity {self.max_tokens}, window {self.window}"
            if self.packing
            else "none: every example is a pack",
            **({} if self.isolate else {"isolation": "none: examples see those before them"}),
            "bad rows": self.on_bad_row,
            "held out": self.held_out.fingerprint if self.held_out else self.held_out_fraction,
            **self.encoder.fingerprint(),
        }

    def stream(self, state: StreamState | None = None) -> PackStream:
        """The global stream from ``state``."""
        return PackStream(
            self.source,
            self.encoder,
            self.curriculum,
            epochs=self.epochs,
            seed=self.seed,
            capacity=self.max_tokens,
            window=self.window,
            packing=self.packing,
            held_out=HeldOut(self.held_out_fraction, self._held_out_queries),
            on_bad_row=self.on_bad_row,
            num_workers=self.num_workers,
            state=state,
        )

    def train_dataloader(self) -> StepLoader:
        world_size, rank = self._ranks()
        if self.global_batch % (world_size * self.micro_batch):
            raise UserError(
                f"data.global_batch={self.global_batch} packs must be a multiple of ranks × "
                f"data.micro_batch = {world_size} × {self.micro_batch}"
            )
        self._loader = StepLoader(
            self.stream(self.stream_state),
            global_batch=self.global_batch,
            micro_batch=self.micro_batch,
            world_size=world_size,
            rank=rank,
            begun=self.examples_read,
            isolate=self.isolate,
        )
        return self._loader

    def val_dataloader(self) -> ValidationLoader:
        return ValidationLoader(self.held_out_packs(), *self._ranks())

    def _ranks(self) -> tuple[int, int]:
        """(number of ranks, this one); a data module without a Trainer is alone."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def step_done(self, step: StepBatch) -> None:
        """Record that a step was trained on: moves the saved state and the card forward."""
        self.stream_state = step.state
        self.examples_read = step.packs[-1].examples_read
        if not self.card.audit:
            self.audit(step.packs)
        self.card.add(step)
        now = time.perf_counter()
        if self._last_step:
            self.seconds += now - self._last_step
        self._last_step = now

    @property
    def is_exhausted(self) -> bool:
        """Whether the stream has ended and its last step has been trained on."""
        return self._loader is not None and self._loader.ended_with == self.stream_state

    def audit(self, items: list[StreamPack]) -> AuditFindings:
        """Check packs against the traces they came from, and put the findings on the card.

        Raises:
            RuntimeError: a fault, which is a bug of this program.
        """
        items = items[:AUDITED_PACKS]
        traces = {
            example.number: self.source[example.number]
            for item in items
            for example in item.pack.examples
        }
        findings = audit_packs([item.pack for item in items], traces, self.encoder)
        self.card.audit.update(findings.to_dict())
        if findings.faults:
            raise RuntimeError(f"the audit of packs found faults: {'; '.join(findings.faults)}")
        return findings

    def held_out_traces(self) -> list[Trace]:
        """Validation traces: the first of the held-out source, or of the stage's own part."""
        if self._held_out_traces is None:
            self._held_out_traces = list(self._find_held_out())
            self.card.facts["validation traces"] = len(self._held_out_traces)
        return self._held_out_traces

    def held_out_packs(self) -> dict[str, list[Pack]]:
        """Validation traces as packs, by group (see :mod:`orca.stream.validation`); those that are
        too long are counted on the card.

        Raises:
            UserError: none of them fits.
        """
        if self._held_out_packs is None:
            traces = self.held_out_traces()
            packs, too_long = pack_by_group(self.encoder, traces, self.max_tokens)
            if traces and not packs:
                raise UserError(f"no validation trace fits in data.max_tokens={self.max_tokens}")
            self.card.facts["held-out traces too long"] = too_long
            self._held_out_packs = packs
        return self._held_out_packs

    @cached_property
    def _held_out_queries(self) -> frozenset[bytes]:
        # A query of the validation file that also stands in the training data is not trained on.
        if self.held_out is None:
            return frozenset()
        hashes = self.held_out.values(lambda trace: query_hash(trace.query), bad=None)
        return frozenset(one for one in hashes if one is not None)

    def _find_held_out(self) -> Iterator[Trace]:
        if self.held_out is None and not self.held_out_fraction:
            return
        source = self.held_out or self.source
        wanted = HeldOut(self.held_out_fraction)
        found = bad = 0
        for number in range(len(source)):
            if found == self.held_out_examples:
                return
            try:
                trace = source[number]
            except BadRow as error:
                if self.on_bad_row == "fail":
                    raise UserError(
                        f"{source.locate(number)}: {error.detail}. {ON_BAD_ROW_HINT}"
                    ) from None
                bad += 1
                continue
            if self.held_out is not None or wanted.has(trace.query):
                found += 1
                yield trace
        if not found:
            raise UserError(
                f"no validation trace: {len(source)} rows, {bad} of them bad, gave none. Raise "
                f"data.held_out_fraction={self.held_out_fraction}, or set it to 0 to train without"
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            "stream": self.stream_state.to_dict(),
            "examples_read": self.examples_read,
            "seconds": self.seconds,
            "card": self.card.state_dict(),
            "facts": self.facts(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        here, there = self.facts(), state_dict["facts"]
        differing = [k for k in {**here, **there} if here.get(k) != there.get(k)]
        if differing:
            changes = "; ".join(f"{k}: {there.get(k)} → {here.get(k)}" for k in differing)
            raise UserError(
                f"the checkpoint was made on another stream and cannot go on ({changes})"
            )
        self.stream_state = StreamState.from_dict(state_dict["stream"])
        self.examples_read = state_dict["examples_read"]
        self.seconds = state_dict["seconds"]
        self.card.load_state_dict(state_dict["card"])

    def save_card(self, directory: Path) -> None:
        self.card.save(directory)
