"""Qasper: a paper's text is its paragraphs, references are the official evaluator's, evidence lies where it stands."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.tables import Evidence
from pipeline.data import splits
from pipeline.data.benchmarks import qasper
from pipeline.data.checks import BenchmarkChecks
from pipeline.data.splits import OfficialFiles
from pipeline.evaluation import metrics
from pipeline.retrieval import chunking
from pipeline.runtime.errors import DataError


def answer(**given):
    empty = {"unanswerable": False, "extractive_spans": [], "yes_no": None, "free_form_answer": "", "evidence": []}
    return {"answer": {**empty, "highlighted_evidence": [], **given}, "annotation_id": "", "worker_id": ""}


def question(identifier, *answers):
    return {"question": f"What is {identifier}?", "question_id": identifier, "answers": list(answers)}


def paper(*qas, sections=(("Introduction", ["We begin."]),), **changes):
    full_text = [{"section_name": name, "paragraphs": paragraphs} for name, paragraphs in sections]
    return {"title": "A paper", "abstract": "", "full_text": full_text, "qas": list(qas)} | changes


YES = answer(yes_no=True)
SECTIONS = [
    ("Introduction", ["We begin.", "", "Data. We take data."]),
    ("Method", []),
    ("Method ::: Model", ["A model,\nwith a line  end.", " \n"]),
    (None, ["Last words. "]),
]


def prepare(files, left_out=None, **changes):
    """Documents by id, examples, rejects; `files` holds the papers of each split by their ids."""
    left_out = Counter() if left_out is None else left_out
    entries = {split: [(f"{split}.json", papers)] for split, papers in files.items()}
    rejects = {}
    files = OfficialFiles(entries, rejects.setdefault, left_out=left_out, **{"seed": 1} | changes)
    found = splits.benchmark(qasper.read, files)
    return {document.document_id: document for document in found.documents}, list(found.examples), rejects


def quoted(example, documents):
    return [documents[found.document_id].text[found.start : found.end] for found in example.evidence]


def real(shared, name):
    return json.loads((shared / f"data/qasper/{name}.json").read_text(encoding="utf-8"))


def test_a_paper_is_its_abstract_then_each_section_name_above_its_paragraphs():
    documents, _, _ = prepare({"test": {"1.1": paper(question("q", YES), sections=SECTIONS, abstract="In short.")}})
    assert documents["1.1"].title == "A paper"
    assert not documents["1.1"].whole
    assert documents["1.1"].text == (
        "In short.\n\nIntroduction\nWe begin.\n\nData. We take data.\n\nMethod\nMethod ::: Model\n"
        "A model,\nwith a line  end.\n\nLast words. "
    )


def test_references_follow_the_official_precedence_one_for_each_annotator():
    everything = {"extractive_spans": ["a b", "c"], "free_form_answer": "free", "yes_no": False}
    asked = question(
        "q",
        answer(unanswerable=True, **everything),
        answer(**everything),
        answer(free_form_answer="free", yes_no=True),
        answer(yes_no=True),
        answer(yes_no=False),
    )
    _, [example], _ = prepare({"dev": {"1.1": paper(asked)}})
    assert example.answers == ["Unanswerable", "a b, c", "free", "Yes", "No"]
    assert example.answer_types == ["none", "extractive", "abstractive", "boolean", "boolean"]
    assert (example.benchmark, example.split, example.question_id) == ("qasper", "dev", "q")


def test_evidence_is_the_paragraphs_of_all_annotators_once_each_in_the_order_of_the_text():
    asked = question(
        "q",
        answer(yes_no=True, evidence=["Last words.", "A model,\nwith a line  end.", "FLOAT SELECTED: Table 1: Data."]),
        answer(
            yes_no=True, evidence=["A model, with a line end. ", "Method ::: Model", "We take data", "not there", ""]
        ),
        answer(unanswerable=True, evidence=["We begin."]),
    )
    documents, [example], _ = prepare({"test": {"1.1": paper(asked, sections=SECTIONS)}})
    assert quoted(example, documents) == [
        "We take data", "Method ::: Model", "A model,\nwith a line  end.", "Last words. ",
    ]  # fmt: skip
    assert (example.gold_document_ids, example.gold_position) == (["1.1"], 0)


@pytest.mark.parametrize("evidence", [[], ["FLOAT SELECTED: Figure 2."], ["not there"], [" "]])
def test_without_text_evidence_the_gold_document_is_unknown(evidence):
    sections = [("Introduction", ["We begin.", "FLOAT SELECTED: Figure 2."])]
    asked = paper(question("q", answer(yes_no=True, evidence=evidence)), sections=sections)
    _, [example], rejects = prepare({"test": {"1.1": asked}})
    assert (example.document_ids, example.gold_document_ids, example.evidence) == (["1.1"], [], [])
    assert example.gold_position == -1
    assert rejects == {}


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([YES, answer()], "answer 2 is neither unanswerable nor has it spans, a free form, or a yes or no"),
        ([answer(extractive_spans=[""])], "answer 1 is extractive, but its text is empty"),
        ([answer(free_form_answer="  ")], "answer 1 is abstractive, but its text is empty"),
    ],
)
def test_a_question_without_an_answer_is_rejected_alone(answers, reason):
    documents, examples, rejects = prepare({"test": {"1.1": paper(question("bad", *answers), question("good", YES))}})
    assert list(documents) == ["1.1"]
    assert [example.question_id for example in examples] == ["good"]
    assert rejects == {"test.json, paper 1.1, question bad": reason}


def test_a_question_whose_answers_are_lost_is_left_out_and_counted_once():
    left_out = Counter()
    asked = [question("lost"), question("good", YES)]
    _, examples, rejects = prepare({"test": {"1.1": paper(*asked)}}, left_out)  # takes documents and examples
    assert [example.question_id for example in examples] == ["good"]
    assert (left_out, rejects) == ({qasper.LOST: 1}, {})


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([], "expected an object"),
        (paper(question(" ", YES)), "qas[0].question_id must not be empty"),
        (
            paper(question("q", {"answer": {**YES["answer"], "yes_no": "yes"}})),
            'yes_no is "yes": expected true or false',
        ),
        ({key: value for key, value in paper().items() if key != "full_text"}, "full_text is missing"),
        (paper(question("q", YES), sections=[(None, ["", " "])]), "there is no text, neither in abstract nor in full"),
    ],
)
def test_a_bad_paper_is_rejected_with_its_reason(bad, reason):
    documents, examples, rejects = prepare({"test": {"1.1": bad, "1.2": paper(question("good", YES))}})
    assert (list(documents), len(examples)) == (["1.2"], 1)
    assert list(rejects) == ["test.json, paper 1.1"]
    assert reason in rejects["test.json, paper 1.1"]


def test_a_paper_without_full_text_is_its_abstract():
    documents, [_], rejects = prepare({"test": {"1.1": paper(question("q", YES), sections=[], abstract="In short.")}})
    assert documents["1.1"].text == "In short."
    assert rejects == {}


def test_papers_without_questions_are_no_documents():
    documents, _, _ = prepare({"test": {"1.1": paper(), "1.2": paper(question("q", YES))}})
    assert list(documents) == ["1.2"]


def test_the_same_paper_or_question_in_two_places_is_refused_with_both():
    one, other = paper(question("q", YES)), paper(question("r", YES))
    with pytest.raises(
        DataError, match=r"^test.json, paper 1.1: paper '1.1' already stands in train.json, paper 1.1; "
    ):
        prepare({"train": {"1.1": one}, "test": {"1.1": other}})
    with pytest.raises(
        DataError, match=r"^dev.json, paper 1.2: question 'q' already stands in train.json, paper 1.1; "
    ):
        prepare({"train": {"1.1": one}, "dev": {"1.2": one}})
    with pytest.raises(DataError, match=r"^dev.json, paper 1.1: question 'q' already stands in dev.json, paper 1.1; "):
        prepare({"dev": {"1.1": paper(question("q", YES), question("q", YES))}})


def test_train_is_held_out_by_whole_papers_and_other_files_stay_in_their_split():
    files = {
        "train": {f"1.{n}": paper(*(question(f"{n}-{m}", YES) for m in range(3))) for n in range(10)},
        "dev": {"2.1": paper(question("dev", YES))},
        "test": {"3.1": paper(question("test", YES))},
    }
    documents, examples, _ = prepare(files, dev_fraction=0.2, test_fraction=0.3)
    splits_of = {}
    for example in examples:
        splits_of.setdefault(example.document_ids[0], set()).add(example.split)
    assert len(documents) == 12
    assert all(len(found) == 1 for found in splits_of.values())
    assert Counter(split for found in splits_of.values() for split in found) == {"train": 5, "dev": 3, "test": 4}
    assert (splits_of["2.1"], splits_of["3.1"]) == ({"dev"}, {"test"})


def test_max_questions_takes_the_first_of_each_split_and_only_their_papers():
    files = {
        "train": {
            "1.1": paper(question("a", YES), question("b")),
            "1.2": paper(question("c", YES), question("d", YES)),
        },
        "test": {"2.1": paper(question("e", YES)), "2.2": paper(question("f", YES)), "2.3": paper(question("g", YES))},
    }
    documents, examples, _ = prepare(files, max_questions=2)
    assert [example.question_id for example in examples] == ["a", "c", "e", "f"]
    assert list(documents) == ["1.1", "1.2", "2.1", "2.2"]


TEXTS = st.text(st.sampled_from("ab.\n "), max_size=12)


@given(st.lists(st.tuples(st.none() | TEXTS, st.lists(TEXTS, max_size=4)), min_size=1, max_size=4), TEXTS)
def test_every_paragraph_is_in_the_document_and_found_as_evidence(sections, abstract):
    found = qasper.Paper.model_validate(paper(sections=sections, abstract=abstract, paper_id="1.1"))
    text, _ = qasper.layout(found)
    pieces = [abstract, *(piece for name, paragraphs in sections for piece in [name or "", *paragraphs])]
    pieces = [piece for piece in pieces if piece.strip()]
    assert text.split() == " ".join(pieces).split()
    end = 0
    for piece in pieces:
        assert piece in text[end:]
        end = text.index(piece, end) + len(piece)
    for piece in pieces:
        asked = paper(question("q", answer(yes_no=True, evidence=[piece])), sections=sections, abstract=abstract)
        documents, [example], _ = prepare({"test": {"1.1": asked}})
        assert [part.split() for part in quoted(example, documents)] == [piece.split()]


def test_the_official_sample_is_refused_for_its_one_id_and_read_with_four(shared):
    sample = real(shared, "qasper_sample_small_official_fixture")
    with pytest.raises(DataError, match=r"question '753990d0b621d390ed58f20c4d9e4f065f0dc672' already stands"):
        prepare({"test": sample})
    [(paper_id, found)] = sample.items()
    for number, asked in enumerate(found["qas"]):
        asked["question_id"] = f"question {number}"
    documents, examples, rejects = prepare({"test": sample})
    assert documents[paper_id].text == (
        "This is the abstract of the paper\n\nIntroduction\nA short paragraph\n\nAnother intro paragraph\n\n"
        "Related Work\nShorter paragraph\n\nProposed Method\nProposed Method ::: Polarity Function\n"
        "Method paragraph using seed lexicon\n\nConclusion\nConclusion paragraph"
    )
    assert [(example.answers, example.answer_types, quoted(example, documents)) for example in examples] == [
        (
            ["a vocabulary", "using seed lexicon"],
            ["abstractive", "extractive"],
            ["Method paragraph using seed lexicon"],
        ),
        (["Yes"], ["boolean"], ["Method paragraph using seed lexicon"]),
        (["Unanswerable"], ["none"], []),
        (["Conclusion paragraph"], ["extractive"], ["Method paragraph using seed lexicon"]),
    ]
    assert rejects == {}


def test_the_real_papers_keep_every_paragraph_and_every_piece_of_evidence(shared):
    papers = real(shared, "qasper_pieces")
    documents, examples, rejects = prepare({"dev": papers})
    assert (len(documents), len(examples), rejects) == (19, 121, {})
    asked = {found["question_id"]: found for value in papers.values() for found in value["qas"]}
    num_quotes = 0
    for example in examples:
        quotes = {
            quote
            for annotation in asked[example.question_id]["answers"]
            for quote in annotation["answer"]["evidence"]
            if "FLOAT SELECTED" not in quote
        }
        num_quotes += len(quotes)
        assert set(quoted(example, documents)) == quotes
        assert len(example.evidence) == len(quotes)
        assert (example.gold_position == 0) == bool(quotes)
    for name, value in papers.items():
        for section in value["full_text"]:
            for text in [section["section_name"], *section["paragraphs"]]:
                assert text in documents[name].text
    assert num_quotes > 140
    assert Counter(kind for example in examples for kind in example.answer_types) == {
        "extractive": 106, "abstractive": 28, "boolean": 13,
    }  # fmt: skip


def test_no_chunk_of_a_real_paper_ends_with_a_section_name(shared):
    papers = real(shared, "qasper_pieces")
    documents, _, _ = prepare({"dev": papers})
    num_chunks = 0
    for name, document in documents.items():
        headings = {section["section_name"].strip() for section in papers[name]["full_text"]}
        for start, end in chunking.split(document.text, 100):
            num_chunks += 1
            assert document.text[start:end].strip().rpartition("\n")[2] not in headings
    assert num_chunks > 500


def test_references_and_types_book_the_official_scores(shared):
    lines = (shared / "golden/metrics/qasper_structured.jsonl").read_text(encoding="utf-8").splitlines()
    cases = {case["id"]: case for case in map(json.loads, lines) if case["id"] != "aggregate"}
    asked = [question(name, *case["references"]) for name, case in cases.items()]
    _, examples, _ = prepare({"test": {"1.1": paper(*asked)}})
    assert len(examples) == len(cases) > 10
    for example in examples:
        case = cases[example.question_id]
        expected = case["expected"]["all_evidence"]
        prediction = case["prediction"]["predicted_answer"]
        scores = [metrics.qasper_token_f1(prediction, [reference]) for reference in example.answers]
        assert max(scores) == pytest.approx(expected["answer_f1"], abs=1e-9)
        assert example.answer_types[scores.index(max(scores))] == expected["booked_type"]


def test_the_degraded_real_papers_lose_only_the_questions_whose_answers_are_lost(shared):
    papers = real(shared, "qasper_test80_degraded")
    left_out = Counter()
    documents, examples, rejects = prepare({"test": papers}, left_out)
    lost = [found for value in papers.values() for found in value["qas"] if not found["answers"]]
    assert (len(examples), left_out, len(lost), rejects) == (58, {qasper.LOST: 120}, 120, {})
    assert {example.gold_position for example in examples} == {-1}
    checks = BenchmarkChecks()
    for document in documents.values():
        checks.add_document(document)
    for example in examples:
        checks.add_example(example)
    assert checks.summary()["documents"]["num_unused"] == 0


def test_reading_again_gives_the_same():
    files = {
        "train": {f"1.{n}": paper(question(f"q{n}", answer(yes_no=True, evidence=["We begin."]))) for n in range(9)}
    }
    first, again, other = (prepare(files, dev_fraction=0.3, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert [example.split for example in first[1]] != [example.split for example in other[1]]
    assert first[1][0].evidence == [Evidence("1.0", 13, 22)]
