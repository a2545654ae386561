"""Checks that every benchmark must pass, whoever made it, and the counts that `prepare` reports."""

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

from pipeline.common.tables import Document, Evidence, Example
from pipeline.common.text import text_key, word_spans
from pipeline.data.jsonl import is_blank
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
        self._key_of: dict[str, bytes] = {}
        self._length_of: dict[str, int] = {}
        self._example_ids: set[str] = set()
        self._question_ids: dict[str, set[str]] = defaultdict(set)
        self._sizes: dict[str, Counter[int]] = defaultdict(Counter)
        self._num_gold_known: Counter[str] = Counter()
        # Keys of texts in contexts, and of questions with their answers, by whether they are trained on.
        self._texts: dict[bool, set[bytes]] = {True: set(), False: set()}
        self._questions: dict[bool, set[bytes]] = {True: set(), False: set()}

    def add_document(self, document: Document) -> None:
        """Raises DataError: the id is taken, or the text is blank."""
        if document.document_id in self._key_of:
            raise DataError(f"document {document.document_id!r} stands twice; ids are unique")
        num_words = len(word_spans(document.text))
        if is_blank(document.text):
            raise DataError(f"document {document.document_id!r} has no text; leave it out")
        self._num_words += num_words
        self._max_words = max(self._max_words, num_words)
        self._key_of[document.document_id] = text_key(document.text)
        self._length_of[document.document_id] = len(document.text)

    def add_example(self, example: Example) -> Example:
        """Take an example and return it, with each document of its context that has a gold text as gold.

        Raises:
            DataError: the example is not whole, or does not fit the documents seen.
        """
        problem = self._problem(example)
        if problem:
            raise DataError(f"example {example.example_id!r}: {problem}")
        self._example_ids.add(example.example_id)
        self._question_ids[example.split].add(example.question_id)
        self._sizes[example.split][len(example.document_ids)] += 1
        self._num_gold_known[example.split] += bool(example.gold_document_ids)
        is_trained_on = example.split in _TRAINED_ON
        # Benchmarks ask every story the same things: only with its answer is a wording a leak.
        if example.answers:
            self._questions[is_trained_on].add(text_key(f"{example.question} {example.answers[0]}"))
        self._texts[is_trained_on].update(self._key_of[document_id] for document_id in example.document_ids)
        return self._with_copies_of_gold(example)

    def _with_copies_of_gold(self, example: Example) -> Example:
        """Make a document with a gold text gold, for under any id and title it is no distractor."""
        first_of = {self._key_of[name]: name for name in reversed(example.gold_document_ids)}
        evidence = list(example.evidence)
        for name in example.document_ids:
            first = first_of.get(self._key_of[name])
            if first is not None and name not in example.gold_document_ids:
                found = [each for each in example.evidence if each.document_id == first]
                if self._length_of[name] != self._length_of[first]:  # other blanks, so that no place is the same
                    found = [Evidence(name, 0, self._length_of[name])]
                evidence += [replace(each, document_id=name) for each in found]
        if len(evidence) == len(example.evidence):
            return example
        with_evidence = {each.document_id for each in evidence}
        gold = [name for name in example.document_ids if name in with_evidence]
        position = example.document_ids.index(gold[0])
        return replace(example, gold_document_ids=gold, evidence=evidence, gold_position=position)

    def _problem(self, example: Example) -> str:
        if example.example_id in self._example_ids:
            return "the id stands twice; ids are unique"
        if example.split not in SPLITS:
            return f"split is {example.split!r}, expected one of {', '.join(SPLITS)}"
        if is_blank(example.question):
            return "the question is empty"
        if example.split == "unlabelled" and example.answers:
            return (
                f"it has an answer ({example.answers[0]!r}), but split unlabelled is for questions without; use train"
            )
        if example.split != "unlabelled" and (not example.answers or any(map(is_blank, example.answers))):
            return "there is no answer, or an empty one; only split unlabelled has questions without answers"
        if not example.document_ids or len(set(example.document_ids)) < len(example.document_ids):
            return "the context is empty, or holds a document twice"
        unknown = [name for name in example.document_ids if name not in self._key_of]
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

    def summary(self, left_out: str = "") -> dict[str, Any]:
        """Collect all counts for reports/prepare.json.

        Raises:
            DataError: there is not one example. The message tells what is `left_out`.
        """
        if not self._example_ids:
            told = f" (left out: {left_out})" if left_out else ""
            raise DataError(f"there is not one question to ask{told}; look at the files and at the section data")
        used = self._texts[True] | self._texts[False]
        return {
            "documents": {
                "num_documents": len(self._key_of),
                "num_unused": sum(key not in used for key in self._key_of.values()),
                "num_copies": len(self._key_of) - len(set(self._key_of.values())),
                "words": {"mean": self._num_words / len(self._key_of), "max": self._max_words},
            },
            "splits": {
                split: {
                    "num_questions": len(self._question_ids[split]),
                    "num_examples": self._sizes[split].total(),
                    "num_gold_known": self._num_gold_known[split],
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
