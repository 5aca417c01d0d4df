"""The LightningModule, loss, attention backends, callbacks, checkpoints, export."""

from orca.training.answers import generate
from orca.training.attention import BACKENDS, choose_backend, implementation
from orca.training.callbacks import HeldOutAnswers, RunProgress, Throughput
from orca.training.checkpoint import checkpoints, newest_checkpoint
from orca.training.export import HANDOFF_FILE, check_handoff, export
from orca.training.guards import LossSpikes, NonFiniteLoss
from orca.training.levers import CHECKPOINTING, Levers
from orca.training.loggers import MetricsCsv, read_metrics
from orca.training.lora import Lora
from orca.training.loss import target_cross_entropy
from orca.training.module import ExplanationTuning
from orca.training.optimizer import AdamW, AdamW8bit, Constant, Cosine, Linear
from orca.training.plan import plan_stage
from orca.training.plan_report import plan_report
from orca.training.planning import Planning
from orca.training.precision import choose_precision
from orca.training.pretrained import Pretrained, byte_tokenizer, prepare_model
from orca.training.ranks import is_rank_zero, needs_ranks, start_ranks
from orca.training.report import describe, held_out_loss, next_command
from orca.training.saving import Checkpoints
from orca.training.stage import Stage, train_stage
from orca.training.strategies import FullySharded, OneDevice, Replicated
from orca.training.student import Student
from orca.training.trainer import build_trainer
from orca.training.wandb_run import (
    WandbRun,
    log_artifact,
    model_artifact,
    run_facts,
    run_id,
    trained_by,
    use_model,
    wandb_logger,
)
from orca.training.weights import weights_hash

TRAIN_OPTIONS = (
    "run",
    "seed",
    "epochs",
    "resume",
    "overwrite",
    "precision",
    "attention",
    "gradient_clip",
    "loss_chunk",
    "max_skipped_steps",
    "plan",
    "planning",
    "activation_checkpointing",
    "compile",
    "liger",
    "stages",
    "model",
    "data",
    "curriculum",
    "template",
    "optimizer",
    "scheduler",
    "trainer",
    "strategy",
    "benchmark",
    "callbacks",
    "logger",
    "paths",
)
"""Top-level keys of conf/train.yaml."""

__all__ = [
    "BACKENDS",
    "CHECKPOINTING",
    "HANDOFF_FILE",
    "TRAIN_OPTIONS",
    "AdamW",
    "AdamW8bit",
    "Checkpoints",
    "Constant",
    "Cosine",
    "ExplanationTuning",
    "FullySharded",
    "HeldOutAnswers",
    "Levers",
    "Linear",
    "Lora",
    "LossSpikes",
    "MetricsCsv",
    "NonFiniteLoss",
    "OneDevice",
    "Planning",
    "Pretrained",
    "Replicated",
    "RunProgress",
    "Stage",
    "Student",
    "Throughput",
    "WandbRun",
    "build_trainer",
    "byte_tokenizer",
    "check_handoff",
    "checkpoints",
    "choose_backend",
    "choose_precision",
    "describe",
    "export",
    "generate",
    "held_out_loss",
    "implementation",
    "is_rank_zero",
    "log_artifact",
    "model_artifact",
    "needs_ranks",
    "newest_checkpoint",
    "next_command",
    "plan_report",
    "plan_stage",
    "prepare_model",
    "read_metrics",
    "run_facts",
    "run_id",
    "start_ranks",
    "target_cross_entropy",
    "train_stage",
    "trained_by",
    "use_model",
    "wandb_logger",
    "weights_hash",
]
