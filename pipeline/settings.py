"""Every setting: its type, its range, its unit. Values live in params.yaml and conf/, never here.

Each class is one section. `pipeline/config.py` fills them; pydantic collects all problems at once.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.bundles import (
    Count,
    Data,
    Fraction,
    Name,
    NonNegative,
    Positive,
    PositiveFloat,
    Retriever,
    Section,
    Sha256,
)


class Score(Section):
    """How the retriever's scores are made; it changes no score."""

    engine: Literal["local", "ray"]
    """Where texts are encoded: in the stage's process, or on the actors of a Ray cluster (pipeline/ray_encoding.py)."""


class Validation(Section):
    """Retrievers compared on the benchmark before anything is trained."""

    retrievers: Annotated[list[Name], Field(min_length=1)]
    """Bundles of conf/retriever, as they stand there."""
    chunk_words: Annotated[list[Positive], Field(min_length=1)]
    """Each is tried as chunk.words."""
    max_examples: Positive | None
    """Of each split, drawn by their ids; null: all."""


class Chunk(Section):
    """How documents are cut."""

    words: Positive
    """Words of a chunk at most; a document marked `whole` is never cut."""


class Model(Section):
    """The base model."""

    source: Name
    """Hub name or local folder."""
    revision: Name | None
    sha256: Sha256 | None
    """Digest over the safetensors files; null: not checked, but recorded."""
    sliding_window: Positive | None
    """Tokens; null: full attention."""
    max_tokens: Positive
    """Longest row, its reference answer included; context.too_long says what becomes of a longer one. Generated answers
    may be longer than the reference: leave room below the model's own limit."""
    dtype: Literal["float32", "bfloat16"]


class Context(Section):
    """What becomes of a context that the model cannot read whole."""

    too_long: Literal["refuse", "cut_end", "cut_middle"]
    """Of a row above model.max_tokens: the stage stops, or its context is cut there and the cut rows are counted."""


class Mask(Section):
    """How the masked view is made (paper section 3)."""

    mode: Literal["token", "skip", "span", "drop"]
    top_k: Positive


class Gate(Section):
    """What retrieval must reach before focused training starts."""

    min_gold_retained: Fraction
    """Share of the train examples with a known gold chunk that keep one."""
    override: bool
    """Train below it all the same."""


class Contrastive(Section):
    """InfoNCE between the two views' representations."""

    weight: NonNegative
    temperature: PositiveFloat
    representation: Literal["last_prompt", "mean", "eos"]
    same_document: Literal["mask", "keep"]
    """Two examples over one context in a batch: left out of the loss, or negatives of each other."""


class Views(Section):
    """Weight of each view's causal-LM loss in focused training."""

    full: NonNegative
    masked: NonNegative


class Lora(Section):
    """The adapter."""

    rank: Positive
    alpha: Positive
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    embedding: Literal["lora", "mask_token", "full", "none"]
    """What is trained of the input embedding: LoRA on it, the row of <mask> alone, all of it, nothing."""
    norms: bool
    """Train the norm weights too."""


class Train(Section):
    """The optimisation, equal for all methods."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    steps: Positive
    """Optimizer steps."""
    batch_examples: Positive
    """Examples per optimizer step, over all processes; also the contrastive batch."""
    questions_per_document: Positive
    """Questions over one context that stand in a batch side by side, and share its computation; 1: contexts differ."""
    batch_tokens: Positive
    """Of one forward, padding included; a longer row goes alone."""
    negatives: Literal["auto", "graph", "cached"]
    """How a contrastive batch is differentiated: all forwards kept until one backward, or one by one at the price of
    another forward (GradCache); the gradient is the same. auto: kept while they fit."""
    learning_rate: PositiveFloat
    """Of the LoRA matrices."""
    embedding_learning_rate: PositiveFloat
    """Of embedding and norm weights."""
    warmup_steps: Count
    max_grad_norm: PositiveFloat
    log_every: Positive
    """Steps."""
    activation_checkpointing: bool


class Eval(Section):
    """Generation and its statistics."""

    split: Literal["dev", "test"]
    """Whose questions are asked: choose settings on dev, report test."""
    retrieval_top_k: Positive
    """Chunks given to the model by the baseline `retrieval at inference`."""
    longbench: bool
    """Ask over LongBench's retrieval setting too: the best 7 chunks of 200 words."""
    batch_tokens: Positive
    """Prompt tokens of one generation batch, padding included."""
    max_new_tokens: Positive | None
    """Of one answer; null: what the benchmark's answers need (pipeline/core/tasks.py)."""
    bootstrap_resamples: Annotated[int, Field(ge=100)]


class Analyze(Section):
    """What is looked into after evaluation."""

    examples: Positive
    """Test examples at the longest context."""


class Report(Section):
    """The page."""

    title: Name


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
    if views.full == views.masked == contrastive.weight == 0:
        raise ValueError(
            "views.full, views.masked and contrastive.weight are all 0, so focused training has no loss; set one of "
            "them above 0"
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


class EvaluateStage(Section):
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
