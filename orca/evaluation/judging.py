"""The judge in a run of evaluate.py: from samples to tables in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orca.evaluation.item import Item, Sample
from orca.evaluation.judge import judge, judged, read_references, review_table
from orca.evaluation.open_ended_tables import open_ended_table
from orca.evaluation.openai_engine import OpenAIEngine
from orca.evaluation.protocol import Protocol
from orca.evaluation.results import Results
from orca.evaluation.tables import column_head


@dataclass
class Judging:
    """Scores a run's open-ended answers beside those of a reference.

    Args:
        reference: directory of another run, or a FastChat answer file. None: answers stay unscored,
            which the report says.
        reference_name: its name in tables; "ChatGPT" and "GPT-4" stand beside the paper's scores.
        both_orders: judge each pair both ways and average.
    """

    engine: OpenAIEngine
    reference: str | None = None
    reference_name: str | None = None
    both_orders: bool = False

    def check(self, items: Sequence[Item]) -> None:
        """Raises ``UserError`` where the reference has no answer to an item."""
        if self.reference is not None:
            read_references(Path(self.reference), items)

    def add_to(
        self,
        results: Results,
        protocol: Protocol,
        items: Mapping[str, Sequence[Item]],
        samples: Sequence[Sample],
        out: Path,
    ) -> None:
        """Ask the judge what is missing and add the tables; reviews go to ``reviews.parquet``.

        Args:
            items: by benchmark, those to be judged.
            samples: of the run.
            out: its directory.

        Raises:
            UserError: the reference has no answer to an item, or there is nothing to score.
        """
        own = [sample for sample in samples if sample.benchmark in items]
        if self.reference is None:
            results.notes.append(
                f"{', '.join(items)}: answered and recorded, not scored. "
                "judge.reference=DIR_OR_FILE names the answers to judge them beside."
            )
            return
        path = Path(self.reference)
        name = self.reference_name or path.stem.removeprefix("answer_")
        wanted = {sample.item for sample in own}
        asked = [item for part in items.values() for item in part if item.id in wanted]
        references = read_references(path, asked)
        reviews = judge(
            self.engine, own, references, asked, self.both_orders, out / "reviews.parquet"
        )
        messages = list(dict.fromkeys(review.system_message for review in reviews))
        runs = {}
        for message in messages:
            head = column_head(results.name, protocol.name, message if len(messages) > 1 else None)
            given = [review for review in reviews if review.system_message == message]
            runs[head] = judged(given, name)
            results.details += [
                review_table(head, name, [one for one in given if one.benchmark == benchmark])
                for benchmark in dict.fromkeys(review.benchmark for review in given)
            ]
        results.judged.update(runs)
        results.tables.append(open_ended_table(runs))
        if self.both_orders:
            results.notes.append(
                "Each answer was judged in both orders; in the paper, with the reference first."
            )
