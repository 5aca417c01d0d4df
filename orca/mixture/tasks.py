"""Which tasks of a collection the paper samples (section 3.1.2 of arXiv 2306.02707)."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence

T0_TRAINING = (
    "adversarial_qa ag_news amazon_polarity app_reviews cnn_dailymail common_gen commonsense_qa "
    "cos_e cosmos_qa dbpedia_14 dream duorc gigaword glue_mrpc glue_qqp hotpot kilt_tasks_hotpot "
    "imdb multi_news paws qasc quail quarel quartz quoref race ropes rotten_tomatoes samsum sciq "
    "social_i_qa trec web_questions wiki_bio wiki_hop wiki_qa wiqa xsum yelp_review_full"
)
"""How the names of T0's training tasks begin: the 35 data sets of T0's training mixture
(commonsense_qa is also called cos_e), and race and web_questions, without which FLAN's pool of
T0 tasks is not the 193 that Table 3 counts."""

T0_HELD_OUT = (
    "ai2_arc anli bigbench big_bench bigscience_bigbench hellaswag openbookqa piqa squad_v2 "
    "story_cloze super_glue trivia_qa winogrande glue_cola glue_mnli glue_qnli glue_rte glue_sst2 "
    "glue_stsb glue_wnli head_qa natural_questions mmlu jigsaw crows_pairs tydiqa xwinograd zest "
    "openai_humaneval axb axg cb copa rte wic wsc boolq multirc record lambada mc_taco nq_open"
)
"""How the names of tasks begin that T0 keeps for evaluation, BIG-bench among them."""

NIV2_MMLU = ["task66[4-7]_*", "task68[5-9]_*", "task69?_*", "task7[0-2]?_*", "task73[0-7]_*"]
"""Tasks made of MMLU's test questions, which FLAN leaves out."""


def training_tasks(collection: str, exclude: Sequence[str] = ()) -> Callable[[str], str | None]:
    """Says of a task why it is left out: ``excluded``, ``unknown``, or None when it is sampled.

    T0: only training tasks; a name that is neither in T0's training nor in its evaluation mixture
    is unknown. NiV2: not the tasks made of MMLU. ``exclude`` are shell patterns of further names.
    """
    patterns = [*exclude, *(NIV2_MMLU if collection == "niv2" else ())]

    def reason(task: str) -> str | None:
        if any(fnmatch.fnmatchcase(task, pattern) for pattern in patterns):
            return "excluded"
        if collection == "t0" and not task.lower().startswith(tuple(T0_TRAINING.split())):
            return "excluded" if task.lower().startswith(tuple(T0_HELD_OUT.split())) else "unknown"
        return None

    return reason
