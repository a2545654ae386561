"""Checks that every benchmark must pass, whoever made it, and the counts that `prepare` reports."""

import hashlib
from collections import Counter, defaultdict
from typing import Any

from pipeline.common.tables import Document, Example
from pipeline.runtime.errors import DataError

SPLITS = ("train", "unlabelled", "dev", "test", "surface")
_TRAINED_ON = ("train", "unlabelled")


class BenchmarkChecks:
    """Takes all documents, then all examples; refuses what would break a later stage, counts the rest.

    Memory holds ids and digests, never a text.
    """

    def __init__(self) -> None:
        self._num_words = 0
        self._max_words = 0
        self._digest_of: dict[str, int] = {}
        self._example_ids: set[str] = set()
        self._question_ids: dict[str, set[str]] = defaultdict(set)
        self._sizes: dict[str, Counter[int]] = defaultdict(Counter)
        # Digests of texts in contexts, and of questions with their answers, by whether they are trained on.
        self._texts: dict[bool, set[int]] = {True: set(), False: set()}
        self._questions: dict[bool, set[int]] = {True: set(), False: set()}

    def add_document(self, document: Document) -> None:
        """Raises DataError: the id is taken, or the text is blank."""
        if document.document_id in self._digest_of:
            raise DataError(f"document {document.document_id!r} stands twice; ids are unique")
        num_words = len(document.text.split())
        if num_words == 0:
            raise DataError(f"document {document.document_id!r} has no text; leave it out")
        self._num_words += num_words
        self._max_words = max(self._max_words, num_words)
        self._digest_of[document.document_id] = _digest(document.text)

    def add_example(self, example: Example) -> None:
        """Raises DataError: the example is not whole, or does not fit the documents seen."""
        problem = self._problem(example)
        if problem:
            raise DataError(f"example {example.example_id!r}: {problem}")
        self._example_ids.add(example.example_id)
        self._question_ids[example.split].add(example.question_id)
        self._sizes[example.split][len(example.document_ids)] += 1
        is_trained_on = example.split in _TRAINED_ON
        # Benchmarks ask every story the same things: only with its answer is a wording a leak.
        if example.answers:
            self._questions[is_trained_on].add(_digest(f"{example.question} {example.answers[0]}"))
        self._texts[is_trained_on].update(self._digest_of[document_id] for document_id in example.document_ids)

    def _problem(self, example: Example) -> str:
        if example.example_id in self._example_ids:
            return "the id stands twice; ids are unique"
        if example.split not in SPLITS:
            return f"split is {example.split!r}, expected one of {', '.join(SPLITS)}"
        if not example.question.strip():
            return "the question is empty"
        if example.split == "unlabelled" and example.answers:
            return (
                f"it has an answer ({example.answers[0]!r}), but split unlabelled is for questions without; use train"
            )
        if example.split != "unlabelled" and not (example.answers and all(map(str.strip, example.answers))):
            return "there is no answer, or an empty one; only split unlabelled has questions without answers"
        if not example.document_ids or len(set(example.document_ids)) < len(example.document_ids):
            return "the context is empty, or holds a document twice"
        unknown = [name for name in example.document_ids if name not in self._digest_of]
        if unknown:
            return f"the context names {unknown[0]!r}, which is no document"
        gold = set(example.gold_document_ids)
        places = [place for place, name in enumerate(example.document_ids) if name in gold]
        if len(places) < len(gold) or example.gold_position != (places[0] if places else -1):
            return f"gold documents {example.gold_document_ids} do not stand at gold position {example.gold_position}"
        if example.answer_types and len(example.answer_types) != len(example.answers):
            return f"{len(example.answers)} answers have {len(example.answer_types)} types"
        if example.gold_option not in (range(len(example.options)) if example.options else (-1,)):
            return f"gold option {example.gold_option} is none of its {len(example.options)} options"
        outside = {found.document_id for found in example.evidence} - set(example.document_ids)
        return f"evidence lies in {min(outside)!r}, which is not in the context" if outside else ""

    def summary(self) -> dict[str, Any]:
        """Collect all counts for reports/prepare.json. Raises DataError: there is not one example."""
        if not self._example_ids:
            raise DataError("there is not one question to ask; look at the data settings and the counts of rejects")
        used = self._texts[True] | self._texts[False]
        return {
            "documents": {
                "num_documents": len(self._digest_of),
                "num_unused": sum(digest not in used for digest in self._digest_of.values()),
                "words": {"mean": self._num_words / len(self._digest_of), "max": self._max_words},
            },
            "splits": {
                split: {
                    "num_questions": len(self._question_ids[split]),
                    "num_examples": self._sizes[split].total(),
                    "num_examples_by_num_documents": {
                        str(size): num for size, num in sorted(self._sizes[split].items())
                    },
                }
                for split in SPLITS
                if split in ("train", "dev", "test") or self._sizes[split]
            },
            # Texts in a context of training and of dev or test; wordings asked in both with the same answer.
            "leaks": {
                "num_documents": len(self._texts[True] & self._texts[False]),
                "num_questions": len(self._questions[True] & self._questions[False]),
            },
        }


def _digest(text: str) -> int:
    """Digest the words of a text, whatever their case and spacing."""
    return int.from_bytes(hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=8).digest())
