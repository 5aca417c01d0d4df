"""Look at data as training would see it, before any GPU time is spent.

    python -m orca.audit data=local data.path=/my/traces data.format=chat stage=flan5m_chatgpt

prints the data card of each stage (of ``max_packs`` packs, or of the whole stage), what an audit
of its first packs found, and ``show`` packs with their target tokens in colour. It takes the
options of `train.py` and writes nothing.
"""

from __future__ import annotations

import sys

from hydra.utils import instantiate
from omegaconf import DictConfig

from orca.config import check_config, run_program
from orca.stream import StreamPack, TraceDataModule, show_pack
from orca.stream.datamodule import AUDITED_PACKS
from orca.training import TRAIN_OPTIONS, Stage


def main(config: DictConfig) -> None:
    """Print card, audit and packs of every stage of the configuration."""
    check_config(config, (*TRAIN_OPTIONS, "max_packs", "show", "colour"))
    tokenizer = instantiate(config.model).tokenizer()
    template = instantiate(config.template)
    template.prepare(tokenizer)
    for name in config.stages:
        stage: Stage = instantiate(config.stages[name])
        datamodule: TraceDataModule = instantiate(config.data, _partial_=True)(
            part=stage.part, epochs=stage.epochs, tokenizer=tokenizer, template=template
        )
        kept: list[StreamPack] = []
        for number, item in enumerate(datamodule.stream(), start=1):
            datamodule.card.add_pack(item)
            if len(kept) < max(AUDITED_PACKS, config.show):
                kept.append(item)
            if number == config.max_packs:
                break
        datamodule.audit(kept)
        print(datamodule.card.to_markdown())
        for item in kept[: config.show]:
            print(show_pack(item.pack, tokenizer, config.colour and sys.stdout.isatty()))


if __name__ == "__main__":
    run_program(main, "audit")
