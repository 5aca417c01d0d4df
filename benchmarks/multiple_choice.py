"""Precision, recall and speed of finding answer options, on real rows.

    ORCA_SHARED_DATA=… python benchmarks/multiple_choice.py

- T0: rows rendered with promptsource's templates, whose metadata say whether the choices are in the
  prompt. That flag is also set where a sentence names them ("Is it positive or negative?"); those
  templates were told apart by eye and are listed below.
- FLAN 2021: raw rows of 13 of its sets with promptsource's templates (P3's way, not FLAN's own
  templates), against the same flag and a reading of all 130 templates by eye.
- FLAN's chain-of-thought tables, where a block begins with a line ``Options:``; three projects'
  renderings of BIG-Bench Hard, AGIEval and TruthfulQA, all multiple choice; GSM8K, none.
- Super-NaturalInstructions has no flag: ``--sample`` prints the 200 queries that were read by eye.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from train_step_cpu import cpu_name

from orca.mixture.multiple_choice import shows_options

COT = ("aqua", "ecqa", "qasc", "creak", "sensemaking", "gsm8k", "strategyqa")
WRITING = (  # beginnings of the names of T0's templates
    *("xsum", "cnn_dailymail", "multi_news", "samsum", "gigaword", "wiki_bio", "duorc"),
    *("common_gen", "kilt_tasks", "adversarial_qa", "quoref", "ropes"),
)
HAND_COUNT = 100  # of each kind, from the seed below
SEED = 0

# Read by eye, one row each: promptsource says that the choices are in the prompt, and they are, in
# the words of a sentence.
IN_A_SENTENCE = re.compile(
    r"ag_news_|amazon_polarity_|app_reviews_|glue_|imdb_|paws_|quartz_|rotten_tomatoes_|wiki_qa_"
    r"|trec_trec[12]|wiqa_effect_with_string_answer|dbpedia_14_given_a_choice_of_categories"
)
# promptsource has no templates of commonsense_qa here; these, by eye, list the choices.
LISTED_WITHOUT_METADATA = (
    "commonsense_qa_most_suitable_answer",
    "commonsense_qa_question_answering",
    "commonsense_qa_question_to_answer_index",
)
# All 130 templates of FLAN_2021 were read by eye, one row each: of COPA's 12 these show a block of
# options; the 118 of the other 12 sets and COPA's other 5 show none.
FLAN_2021 = Path(__file__).parent.parent / "conf/mixture/source/flan2021_raw.yaml"
FLAN_2021_BLOCKS = {
    ("COPA", "best_option"),
    ("COPA", "cause_effect"),
    ("COPA", "choose"),
    ("COPA", "exercise"),
    ("COPA", "i_am_hesitating"),
    ("COPA", "more likely"),
    ("COPA", "plausible_alternatives"),
}


class TemplateLoader(yaml.SafeLoader):
    """promptsource's tags are mappings."""


TemplateLoader.add_multi_constructor(
    "!", lambda loader, tag, node: loader.construct_mapping(node, deep=True)
)


class Counts:
    """Right and wrong, for precision and recall."""

    def __init__(self) -> None:
        self.both = self.only_found = self.only_there = self.neither = 0

    def add(self, found: bool, there: bool) -> None:
        self.both += found and there
        self.only_found += found and not there
        self.only_there += there and not found
        self.neither += not found and not there

    def cells(self) -> str:
        found, there = self.both + self.only_found, self.both + self.only_there
        precision = f"{self.both / found:.2%}" if found else "-"
        recall = f"{self.both / there:.2%}" if there else "-"
        rows = f"{found + self.only_there + self.neither:,} | {there:,} | {found:,}"
        return f"{rows} | {self.only_found:,} | {self.only_there:,} | {precision} | {recall}"


def normal(name: str) -> str:
    """T0's names have `_` for everything else, repeated or not, and differ in case."""
    return re.sub(r"[\W_]+", "_", name).strip("_").lower()


def metadata(data: Path) -> dict[str, bool | None]:
    """promptsource's ``choices_in_prompt`` by the template's normal name."""
    flags = {}
    for file in sorted((data / "promptsource").rglob("templates.yaml")):
        content = yaml.load(file.read_text(encoding="utf-8"), TemplateLoader)
        parts = [content["dataset"], content.get("subset")]
        for template in content["templates"].values():
            name = "_".join([part for part in parts if part] + [template["name"]])
            flags[normal(name)] = template["metadata"].get("choices_in_prompt")
    return flags


def jsonl(files: Iterable[Path]) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for file in sorted(files)
        for line in file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    ]


def t0(data: Path) -> tuple[list[str], list[str]]:
    """Lines of the table and of the disagreements by template."""
    flags, rows = metadata(data), jsonl((data / "t0").glob("*.jsonl"))
    against_flag, against_eye, writing = Counts(), Counts(), Counts()
    wrong: dict[str, list[bool]] = defaultdict(list)
    unflagged, unknown, sentences = set(), set(), set()
    for row in rows:
        name, found = row["template"], shows_options(row["prompt"])
        flag = flags.get(normal(name))
        if normal(name) not in flags:
            unknown.add(name)
        elif flag is None:
            unflagged.add(name)
        else:
            against_flag.add(found, flag)
        in_sentence = bool(flag and IN_A_SENTENCE.match(name))
        sentences |= {name} if in_sentence else set()
        there = (bool(flag) and not in_sentence) or name in LISTED_WITHOUT_METADATA
        against_eye.add(found, there)
        if found != there:
            wrong[name].append(found)
        if name.startswith(WRITING):
            writing.add(found, False)
    templates = {row["template"] for row in rows}
    table = [
        f"| T0, against promptsource's flag | {against_flag.cells()} |",
        f"| T0, against a reading by eye | {against_eye.cells()} |",
        f"| of these, summaries, generation, extraction | {writing.cells()} |",
    ]
    text = [
        f"T0's {len(templates)} templates: {len(templates - unknown)} are found in promptsource "
        f"(lower case, every run of other characters one `_`), {len(unknown)} of commonsense_qa "
        f"are not; {len(unflagged)} have no flag. {len(sentences)} with the flag name the choices "
        "in a sentence only. By eye the flag is right for all that list choices; it means "
        "something else, not less. Where the detector and the reading differ:",
        "",
        "| template | rows | detector |",
        "| --- | --- | --- |",
    ]
    for name, answers in sorted(wrong.items()):
        text += [f"| {name} | {len(answers)} of 16 | {'found' if answers[0] else 'missed'} |"]
    return table, text


def flan_2021(data: Path) -> tuple[list[str], list[str], list[str]]:
    """Lines of the table and of the comparison by template; the queries."""
    queries: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for file in instantiate(OmegaConf.load(FLAN_2021)).open(str(data)):
        for row in pq.read_table(file.path).to_pylist():
            if row["problem"] is None:
                flag = row["template_type"] == "zs_opt"
                queries[row["task"], row["template"], flag].append(row["query"])
    missing = FLAN_2021_BLOCKS - {(task, template) for task, template, _ in queries}
    if missing:
        sys.exit(f"no rows of the templates that were read: {sorted(missing)}")
    against_flag, against_eye = Counts(), Counts()
    sets: dict[str, Counter[str]] = defaultdict(Counter)
    wrong = []
    for (task, template, flag), texts in queries.items():
        there, found = (task, template) in FLAN_2021_BLOCKS, [shows_options(q) for q in texts]
        for one in found:
            against_flag.add(one, flag)
            against_eye.add(one, there)
        amount = "all" if all(found) else "some" if any(found) else "none"
        sets[task].update(["all", f"flag {flag}, found in {amount}"], block=there, flag=flag)
        if any(one != there for one in found):
            wrong.append(f"{task}, {template} ({found.count(not there)} of {len(found)})")
    columns = ["flag", "block"]
    columns += [f"flag {flag}, found in {n}" for flag in (True, False) for n in ("all", "some")]
    table = [
        f"| FLAN 2021 raw, against promptsource's flag | {against_flag.cells()} |",
        f"| FLAN 2021 raw, against a reading by eye | {against_eye.cells()} |",
    ]
    text = [
        f"FLAN 2021: {len(queries)} templates over raw rows. promptsource's flag (zs_opt) is "
        "also set where a sentence names the answers; by eye, a block of options stands in "
        f"{len(FLAN_2021_BLOCKS)}. Templates by set:",
        "",
        "| set | templates | with the flag | with a block, by eye | flag, found in all rows "
        "| flag, found in some | no flag, found in all | no flag, found in some |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, counts in sets.items():
        text += [f"| {task} | {' | '.join(str(counts[name]) for name in ['all', *columns])} |"]
    text += ["", f"Where the detector and the reading differ: {'; '.join(wrong) or 'nowhere'}."]
    return table, text, [query for texts in queries.values() for query in texts]


def others(data: Path) -> list[str]:
    """Lines of the table: data whose kind is known."""
    lines = []
    for name in COT:
        counts = Counts()
        text = (data / "flan_cot" / f"{name}_train.tsv").read_text(encoding="utf-8")
        for line in text.removesuffix("\n").split("\n"):  # some rows hold a U+2028
            query = line.split("\t")[0].replace("\\n", "\n")
            counts.add(shows_options(query), "\nOptions:\n" in query)
        lines.append(f"| FLAN CoT {name} | {counts.cells()} |")
    for folder in ("bbh_mc_orca", "agieval", "truthfulqa_orca"):
        counts = Counts()
        for row in jsonl((data / "orca_eval_prompts" / folder).glob("*.jsonl")):
            counts.add(shows_options(row["question"]), len(row["options"]) > 1)
        lines.append(f"| rendered {folder} | {counts.cells()} |")
    counts = Counts()
    for row in jsonl([data / "gsm8k" / "test.jsonl"]):
        counts.add(shows_options(row["question"]), False)
    return [*lines, f"| GSM8K test | {counts.cells()} |"]


def niv2(data: Path) -> dict[str, list[str]]:
    """Definition and input of every instance by task."""
    tasks = {}
    for file in sorted((data / "niv2" / "tasks").glob("*.json")):
        task = json.loads(file.read_text(encoding="utf-8"))
        start = task["Definition"][0] + "\n\n"
        tasks[file.stem] = [start + instance["input"] for instance in task["Instances"]]
    return tasks


def print_sample(data: Path) -> None:
    """The queries of Super-NaturalInstructions that were read by eye."""
    rows = [(task, query) for task, queries in niv2(data).items() for query in queries]
    found = [row for row in rows if shows_options(row[1])]
    others = [row for row in rows if not shows_options(row[1])]
    draw = random.Random(SEED)
    for title, part in (("FOUND", found), ("NOT FOUND", others)):
        for task, query in draw.sample(part, HAND_COUNT):
            print(f"--- {title} {task}\n{query}\n")


def speed(queries: list[str]) -> str:
    """Microseconds of processor time per query, the best of 5 passes, on one core."""
    passes = []
    for _ in range(5):
        started = time.process_time()
        for query in queries:
            shows_options(query)
        passes.append(time.process_time() - started)
    mean = sum(map(len, queries)) / len(queries)
    return f"{min(passes) / len(queries) * 1e6:.1f} µs ({mean:,.0f} characters on average)"


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sample", action="store_true", help="print the queries that were read by eye"
    )
    options = parser.parse_args()
    shared = os.environ.get("ORCA_SHARED_DATA")
    if not shared:
        sys.exit("ORCA_SHARED_DATA must name the directory that holds t0/ and promptsource/")
    data = Path(shared)
    if options.sample:
        return print_sample(data)
    table, disagreements = t0(data)
    flan_table, flan_text, flan = flan_2021(data)
    tasks = niv2(data)
    found = {task: sum(map(shows_options, queries)) for task, queries in tasks.items()}
    instructions = [query for queries in tasks.values() for query in queries]
    prompts = [row["prompt"] for row in jsonl((data / "t0").glob("*.jsonl"))]
    lines = [
        "# Finding multiple-choice queries",
        "",
        "- Command: `python benchmarks/multiple_choice.py` with `ORCA_SHARED_DATA` set",
        f"- Hardware: {cpu_name()}; one core. Versions: Python {platform.python_version()}, "
        f"PyYAML {yaml.__version__}.",
        "- Rules were written with FLAN's `flan/v2/templates.py` and these rows in view: the "
        "figures say how well the rules fit known forms, not unknown ones.",
        "",
        "| rows | all | with options | found | wrongly found | missed | precision | recall |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *table,
        *flan_table,
        *others(data),
        "",
        "FLAN CoT: truth is a line `Options:` (a part of creak has none). Rendered: truth is that "
        "the row has two options.",
        "",
        *disagreements,
        "",
        *flan_text,
        "",
        f"Super-NaturalInstructions (definition and input): found in {sum(found.values()):,} of "
        f"{len(instructions):,} queries.",
        "",
        "| task | found | of |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {task} | {n} | {len(tasks[task])} |" for task, n in found.items() if n]
    lines += [
        "",
        *HAND_READ,
        "",
        f"Processor time a query: T0 {speed(prompts)}; FLAN 2021 {speed(flan)}; "
        f"Super-NaturalInstructions {speed(instructions)}.",
    ]
    text = "\n".join(lines) + "\n"
    stamp = datetime.date.today().isoformat()
    machine = "".join(c if c.isalnum() else "-" for c in cpu_name().lower()).strip("-")
    file = Path(__file__).parent / "results" / f"multiple_choice_{machine}_{stamp}.md"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    print(text)


HAND_READ = (
    f"Read by eye on 2026-11-22 (`--sample`, seed {SEED}): of {HAND_COUNT} found, all 100 list "
    "options to choose from. Of 100 not found, 98 list none; two (task573) describe their four "
    "labels in a sentence of the definition. Outside the sample, from the openings of all 60 "
    "definitions: task564 names 13 labels in a sentence. The one query of task059 is a passage "
    "that enumerates with `A)`, `B)`: wrongly found.",
)


if __name__ == "__main__":
    main()
