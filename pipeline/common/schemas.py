"""The artifacts between stages: one explicit Arrow schema each. Read and written by tables.py."""

from dataclasses import dataclass

import pyarrow as pa

_text = pa.large_string()
_texts = pa.large_list(pa.large_string())
_ints = pa.large_list(pa.int32())
_span = pa.struct([("document_id", pa.large_string()), ("start", pa.int32()), ("end", pa.int32())])


@dataclass(frozen=True)
class Table:
    """Name, schema version and columns of one artifact; `stage` is who writes it. No column may hold nulls."""

    name: str
    version: int
    stage: str
    columns: tuple[tuple[str, pa.DataType], ...]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(name, kind, nullable=False) for name, kind in self.columns])


DOCUMENTS = Table(
    "documents",
    1,
    "prepare",
    (
        ("document_id", _text),
        ("title", _text),  # empty: no title
        ("text", _text),
        ("whole", pa.bool_()),  # never cut: one chunk, whatever its length
    ),
)
EXAMPLES = Table(
    "examples",
    2,
    "prepare",
    (
        ("example_id", _text),  # unique
        ("question_id", _text),  # the same question in several contexts has one question_id: the unit of resampling
        ("benchmark", _text),
        ("split", _text),  # train | unlabelled | dev | test | surface
        ("question", _text),
        ("answer_lead", _text),  # words that open the answer and belong to the prompt; may be empty
        ("answers", _texts),  # references; the first one is trained on; empty in split unlabelled alone
        ("document_ids", _texts),  # the context, in order
        ("gold_document_ids", _texts),  # may be empty: unknown
        ("evidence", pa.large_list(_span)),  # character spans of documents that hold the answer; may be empty
        ("gold_position", pa.int32()),  # place of the first gold document in the context, from 0; -1: unknown
        ("answer_types", _texts),  # of each reference (Qasper); empty: none known
        ("options", _texts),  # of a multiple-choice question, in the order shown; else empty
        ("gold_option", pa.int32()),  # place of the right option, from 0; -1: no multiple choice
        ("subset", _text),  # part of the benchmark that is also reported alone (QuALITY: hard, easy); may be empty
    ),
)
CHUNKS = Table(
    "chunks",
    1,
    "chunk",
    (
        ("chunk_id", _text),  # <document_id>#<index>
        ("document_id", _text),
        ("index", pa.int32()),  # within the document, from 0
        ("start", pa.int32()),  # characters of the document's text
        ("end", pa.int32()),
        ("title", _text),  # of the document
        ("text", _text),
    ),
)
SCORES = Table(
    "scores",
    1,
    "score",
    (
        ("example_id", _text),  # same rows, same order as examples
        ("chunk_ids", _texts),  # every chunk of the context, in context order
        ("scores", pa.large_list(pa.float32())),
        ("ranks", _ints),  # 0 is best; equal scores rank in context order
        ("gold", pa.large_list(pa.bool_())),  # chunk overlaps the evidence
    ),
)
FULL_VIEWS = Table(
    "full views",
    2,
    "tokenize",
    (
        ("example_id", _text),
        ("question_id", _text),
        ("split", _text),
        ("num_documents", pa.int32()),
        ("gold_position", pa.int32()),
        ("document_ids", _texts),
        ("input_ids", _ints),  # BOS, instruction, chunks, question, answer, EOS; unlabelled: up to the question
        ("chunk_ids", _texts),  # in context order
        ("chunk_starts", _ints),  # token spans; a document's header belongs to its first chunk
        ("chunk_ends", _ints),
        ("question_start", pa.int32()),  # tokens of BOS, instruction and chunks: what questions of one context share
        ("prompt_end", pa.int32()),  # tokens of the prompt = first label
    ),
)
MASKED_VIEWS = Table(
    "masked views",
    1,
    "mask",
    (
        ("example_id", _text),  # same rows, same order as the full views
        ("input_ids", _ints),
        ("position_ids", _ints),
        ("prompt_end", pa.int32()),
        ("kept_chunk_ids", _texts),  # in context order
        ("kept_scores", pa.large_list(pa.float32())),
        ("kept_ranks", _ints),
        ("gold_retained", pa.bool_()),  # a gold chunk is kept (false when the gold chunk is unknown)
        ("answer_retained", pa.bool_()),  # a reference answer stands in a kept chunk
    ),
)
TEACHINGS = Table(
    "teachings",
    1,
    "teach",
    (
        ("example_id", _text),  # of splits train and unlabelled, in the order of the full views
        ("output_ids", _ints),  # the teacher's answer, EOS included where it came to an end
        ("top_ids", _ints),  # of each token of the answer the teacher's likeliest tokens, num_top of them
        ("top_log_probs", pa.large_list(pa.float32())),  # nats
        ("num_top", pa.int32()),
    ),
)
PREDICTIONS = Table(
    "predictions",
    2,
    "evaluate",
    (
        ("example_id", _text),
        ("question_id", _text),
        ("benchmark", _text),
        ("method", _text),  # pipeline/common/methods.py
        ("input", _text),  # full: the whole context | retrieval: the top chunks only | longbench: its top 7
        ("num_documents", pa.int32()),
        ("gold_position", pa.int32()),
        ("prompt_tokens", pa.int32()),
        ("prediction", _text),
        ("answers", _texts),
        ("answer_types", _texts),
        ("subset", _text),
        ("options", _texts),
        ("gold_option", pa.int32()),  # of a multiple-choice question, from 0; else -1, as the next two
        ("generated_option", pa.int32()),  # the option that the prediction names; -1 also: none or several
        ("likeliest_option", pa.int32()),
        ("option_log_probs", pa.large_list(pa.float64())),  # nats, of each option's letter behind the prompt
        ("score", pa.float64()),  # by the benchmark's own measure (pipeline/views/tasks.py)
        ("exact_match", pa.float64()),  # of a multiple-choice question: the generated option is the right one
        ("token_f1", pa.float64()),
        ("best_subspan_em", pa.float64()),
        ("error", _text),  # correct | distraction | other
        ("distractor_id", _text),  # of a distraction error: the first document that holds the wrong answer; else empty
    ),
)

_FOR_STATISTICS = (
    "example_id", "question_id", "benchmark", "method", "input", "num_documents", "gold_position", "score",
    "exact_match", "error",
)  # fmt: skip
ABLATION_RUN = Table("ablation run", 1, "ablations", tuple(c for c in PREDICTIONS.columns if c[0] in _FOR_STATISTICS))
ABLATIONS = Table(  # one line per row of the grid, seed and example
    "ablations", 1, "ablations", (("row", _text), ("seed", pa.int64()), *ABLATION_RUN.columns)
)
