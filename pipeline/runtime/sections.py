"""The sections of params.yaml and conf/profile: each setting with its type, its range, its unit.

What a named thing of conf/ is stands in bundles.py, which stage reads which section in settings.py.
"""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.runtime.bundles import Count, Fraction, Name, NonNegative, Positive, PositiveFloat, Section, Sha256


class Score(Section):
    """How the retriever's scores are made; it changes no score."""

    engine: Literal["local", "ray"]
    """Where texts are encoded: in the stage's process, or on the actors of a Ray cluster."""


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
    """Weights of what focused training makes of the two views, beside the contrast."""

    full: NonNegative
    """Of the full view's causal-LM loss."""
    masked: NonNegative
    """Of the masked view's causal-LM loss."""
    consistency: NonNegative
    """Of the divergence of the full view's answer from the masked view's."""


class Teach(Section):
    """What the base says over the best-scored chunks of each context, for method `distill`."""

    top_k: Positive
    """Chunks of each context that it reads."""
    top_tokens: Positive
    """Its likeliest tokens at each place of its answer that are written down; all others count as one."""
    batch_tokens: Positive
    """Tokens of one forward, padding included."""


class Distill(Section):
    """Method `distill`: a model that reads all chunks is taught what the base said over the best ones."""

    weight: PositiveFloat
    """Of the divergence from the teacher."""
    labelled: NonNegative
    """Weight of the causal-LM loss on the questions with answers; 0.0: no label is used."""
    batch_questions: Positive
    """Taught in each optimizer step, beside train.batch_examples with their labels."""


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
    document_order: Literal["given", "shuffled"]
    """Of full views with labels: as in the context, or drawn anew at each step, against a liking for certain places."""
    steps: Positive
    """Optimizer steps."""
    batch_examples: Positive
    """Examples per optimizer step, over all processes; also the contrastive batch."""
    questions_per_document: Positive
    """Questions over one context that stand in a batch side by side, and share its computation; 1: contexts differ."""
    batch_tokens: Positive
    """Of one forward, padding included; a longer row goes alone."""
    negatives: Literal["graph", "cached"]
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
    contexts: Literal["all", "longest"]
    """A question that comes with several contexts is asked over each of them, or over the one of most documents."""
    retrieval_top_k: Positive
    """Chunks given to the model by the baseline `retrieval at inference`."""
    longbench: bool
    """Ask over LongBench's retrieval setting too: the best 7 chunks of 200 words."""
    batch_tokens: Positive
    """Prompt tokens of one generation batch, padding included."""
    max_new_tokens: Positive | None
    """Of one answer; null: what the benchmark's answers need (pipeline/views/tasks.py)."""
    bootstrap_resamples: Annotated[int, Field(ge=100)]


class Analyze(Section):
    """What is looked into after evaluation."""

    examples: Positive
    """Examples of eval.split at the longest context."""


class Report(Section):
    """The page."""

    title: Name
