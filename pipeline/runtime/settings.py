"""The settings of each stage, and all of them together. Values live in params.yaml and conf/, never here.

Each class is what one stage may read. `pipeline/runtime/config.py` fills them; pydantic collects all problems at once.
"""

from typing import Self

from pydantic import model_validator

from pipeline.runtime.bundles import Data, Retriever, Section
from pipeline.runtime.sections import (
    Analyze,
    Chunk,
    Context,
    Contrastive,
    Distill,
    Eval,
    Gate,
    Lora,
    Mask,
    Model,
    Report,
    Score,
    Teach,
    Train,
    Validation,
    Views,
)


class PrepareStage(Section):
    data: Data


class ChunkStage(Section):
    chunk: Chunk


class RetrieverBundle(Section):
    """A file of conf/retriever."""

    retriever: Retriever


class ScoreStage(Section):
    retriever: Retriever
    score: Score


class ValidateStage(Section):
    validation: Validation


class BaseStage(Section):
    model: Model


class TokenizeStage(Section):
    model: Model
    context: Context


class MaskStage(Section):
    mask: Mask
    model: Model


class GateStage(Section):
    gate: Gate


class TrainVanillaStage(Section):
    model: Model
    lora: Lora
    train: Train


def _refuse_no_loss(contrastive: Contrastive, views: Views) -> None:
    if views.full == views.masked == views.consistency == contrastive.weight == 0:
        raise ValueError(
            "views.full, views.masked, views.consistency and contrastive.weight are all 0, so focused training has no "
            "loss; set one of them above 0"
        )


class TrainFocusedStage(Section):
    model: Model
    lora: Lora
    train: Train
    contrastive: Contrastive
    views: Views

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        _refuse_no_loss(self.contrastive, self.views)
        return self


class TeachStage(Section):
    model: Model
    teach: Teach


class TrainDistillStage(Section):
    model: Model
    lora: Lora
    train: Train
    distill: Distill


class EvaluateStage(Section):
    model: Model
    eval: Eval


class SurfaceStage(Section):
    model: Model
    eval: Eval


class AnalyzeStage(Section):
    model: Model
    analyze: Analyze
    eval: Eval


class Settings(Section):
    """Everything; only the loader and the tests see it whole."""

    data: Data
    chunk: Chunk
    context: Context
    validation: Validation
    retriever: Retriever
    score: Score
    model: Model
    mask: Mask
    gate: Gate
    contrastive: Contrastive
    views: Views
    teach: Teach
    distill: Distill
    lora: Lora
    train: Train
    eval: Eval
    analyze: Analyze
    report: Report

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        _refuse_no_loss(self.contrastive, self.views)
        return self

    @model_validator(mode="after")
    def _longbench_is_its_own_setting(self) -> Self:
        if self.eval.longbench and self.chunk.words != 200:
            raise ValueError(
                f"eval.longbench is true, but chunk.words is {self.chunk.words}: LongBench's retrieval reads chunks of "
                "200 words; set chunk.words to 200, or eval.longbench to false"
            )
        return self


class ReportStage(Settings):
    """Everything, for the page shows the settings of its run; whatever they change comes before the report anyway."""


class PlanStage(Settings):
    """Everything, for a plan is made of all stages; no stage of the graph, it writes nothing."""
