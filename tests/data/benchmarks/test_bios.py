"""Biographies: people apart between splits, distractors that share a name at the asked rate, spans, bounded memory."""

import collections
import itertools
import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.tables import name_sharing_rate_of
from pipeline.common.text import has_answer
from pipeline.data.benchmarks import bios
from pipeline.data.benchmarks.bios import SplitQuestions
from pipeline.runtime.errors import ConfigError

DEFAULT = {
    "num_questions": {"train": 400, "dev": 200, "test": 512},
    "num_documents": {"train": [12], "dev": [12], "test": [4, 8, 12]},
    "name_sharing_rate": 0.25,
}


def generate(seed=1, surface=(), **changes):
    settings = {**DEFAULT, **changes}
    num_documents, rate = settings.pop("num_documents"), settings.pop("name_sharing_rate")
    asked = [SplitQuestions(*item, num_documents[item[0]], [rate]) for item in settings.pop("num_questions").items()]
    documents, examples = bios.generate(seed, [*asked, *surface], **settings)
    return {document.document_id: document for document in documents}, list(examples)


@pytest.fixture(scope="module")
def default():
    return generate()


def num_shared_names(title, other):
    return len(set(title.split()) & set(other.split()))


def test_one_seed_gives_one_benchmark_and_another_seed_another(default):
    assert generate() == default
    other = generate(seed=2)
    assert other[1] != default[1]
    assert other[0] != default[0]
    assert generate(seed=-1)[1] != default[1]


def test_the_default_has_the_asked_examples_over_about_nine_hundred_documents(default):
    documents, examples = default
    assert Counter((example.split, len(example.document_ids)) for example in examples) == {
        ("train", 12): 400,
        ("dev", 12): 200,
        ("test", 4): 512,
        ("test", 8): 512,
        ("test", 12): 512,
    }
    assert 700 <= len(documents) <= 1000
    assert len({example.example_id for example in examples}) == len(examples)
    assert {name for example in examples for name in example.document_ids} == set(documents)


def test_documents_are_several_sentences_of_english_length(default):
    documents, _ = default
    sentences = [document.text.count(". ") + 1 for document in documents.values()]
    words = [len(document.text.split()) for document in documents.values()]
    assert set(sentences) == {5, 6}
    assert 45 <= sum(words) / len(words) <= 65


def test_the_lead_and_the_answer_stand_once_in_the_context_and_in_the_evidence(default):
    documents, examples = default
    for example in examples:
        told = f"{example.answer_lead} {example.answers[0]}"
        (gold_id,) = example.gold_document_ids
        (evidence,) = example.evidence
        assert evidence.document_id == gold_id == example.document_ids[example.gold_position]
        text = documents[gold_id].text
        sentence = text[evidence.start : evidence.end]
        assert told in sentence
        assert sentence.endswith(".") and ". " not in sentence
        assert evidence.start == 0 or text[evidence.start - 2 : evidence.start] == ". "
        telling = [name for name in example.document_ids if example.answer_lead in documents[name].text]
        assert telling == [gold_id]
        assert documents[gold_id].title in example.question


def test_no_context_holds_a_person_twice_and_no_split_a_person_of_another(default):
    documents, examples = default
    assert len({document.title for document in documents.values()}) == len(documents)
    splits = {}
    for example in examples:
        assert len(set(example.document_ids)) == len(example.document_ids)
        for name in example.document_ids:
            assert splits.setdefault(name, example.split) == example.split


@given(st.integers(), st.integers())
@settings(max_examples=8, deadline=None)
def test_full_names_keep_their_share_whatever_the_seed(seed, other_seed):
    names = [set(bios.People(s, share, bios.PLAIN_SIDE).names) for share in bios.SHARES for s in (seed, other_seed)]
    for share, other in zip(names[::2], names[1::2], strict=True):
        assert share == other
    assert len(set.union(*names)) == sum(len(share) for share in names[::2])


def test_people_beyond_the_plain_names_have_double_ones_that_no_other_name_is_a_part_of():
    people = [bios.People(1, share, bios.PLAIN_SIDE + 25) for share in bios.SHARES]
    names = [name for share in people for name in share.names]
    assert len({*names}) == len(names) == 4 * len(people[0]) == 16 * 65**2
    firsts, lasts = ({name.split()[place] for name in names} for place in (0, 1))
    assert "Evaemma" in bios._names(bios.FIRST_NAMES, bios.FIRST_NAMES.index("Eva") % 4, 41)
    assert all(name.istitle() and name.isalpha() for name in firsts | lasts)


@pytest.mark.parametrize(("num_questions", "side"), [(16_000, 40), (32_000, 40), (32_001, 78), (1_000_000, 434)])
def test_only_questions_that_would_be_asked_twice_bring_double_names(num_questions, side):
    assert bios._side("train", num_questions, 12, 0.25, 5) == side


def test_a_person_tells_the_same_life_however_many_questions_are_asked():
    few, _ = generate(num_questions={"dev": 50})
    people = bios.People(1, "dev", bios.PLAIN_SIDE)
    for document in few.values():
        assert people.biography(people.names.index(document.title)).document == document


def test_the_larger_context_holds_the_distractors_of_the_smaller_one(default):
    _, examples = default
    contexts = {}
    for example in examples:
        contexts.setdefault(example.question_id, []).append(example)
    assert len(contexts) == 400 + 200 + 512
    for asked in contexts.values():
        assert len({(example.question, example.answer_lead, *example.answers) for example in asked}) == 1
        for small, large in itertools.pairwise(asked):
            assert set(small.document_ids) < set(large.document_ids)


def test_the_gold_document_stands_at_every_place_equally_often():
    _, examples = generate(num_questions={"test": 1600}, num_documents={"test": [8]})
    places = Counter(example.gold_position for example in examples)
    assert set(places) == set(range(8))
    assert all(150 < count < 250 for count in places.values())


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_distractors_share_exactly_one_name_at_the_asked_rate_in_every_context(rate):
    documents, examples = generate(num_questions={"test": 300}, num_documents={"test": [4, 12]}, name_sharing_rate=rate)
    total = 0
    for example in examples:
        gold = documents[example.gold_document_ids[0]].title
        shared = [
            num_shared_names(gold, documents[name].title)
            for name in example.document_ids
            if name not in example.gold_document_ids
        ]
        assert set(shared) <= {0, 1}
        assert abs(sum(shared) - rate * len(shared)) < 1
        total += sum(shared)
    assert total / (300 * (3 + 11)) == pytest.approx(rate, abs=0.02)


def test_both_names_are_shared_equally_often():
    documents, examples = generate(num_questions={"test": 300}, name_sharing_rate=1.0)
    first = last = 0
    for example in examples:
        gold = documents[example.gold_document_ids[0]].title.split()
        for name in example.document_ids:
            title = documents[name].title.split()
            first += title[0] == gold[0] and title[1] != gold[1]
            last += title[1] == gold[1] and title[0] != gold[0]
    assert 0.45 < first / (first + last) < 0.55


def test_no_question_comes_twice_before_every_fact_was_asked():
    _, examples = generate(num_questions={"train": 400}, num_documents={"train": [1]})
    assert len({example.question for example in examples}) == 400
    assert all(example.document_ids == example.gold_document_ids for example in examples)


def test_every_relation_is_asked_and_every_kind_of_value_answers(default):
    _, examples = default
    asked = Counter(next(r.phrase for r in bios.RELATIONS if r.phrase in e.answer_lead) for e in examples)
    assert len(asked) == 8
    assert min(asked.values()) > 0.5 * max(asked.values())


def test_no_value_begins_another_and_names_are_no_values():
    names = {*bios.FIRST_NAMES, *bios.LAST_NAMES}
    assert len(names) == len(bios.FIRST_NAMES) + len(bios.LAST_NAMES) == 320
    for relation in bios.RELATIONS:
        assert len(relation.values) == len(set(relation.values)) >= 30
        assert all(1 <= len(value.split()) <= 3 for value in relation.values)
        for value in relation.values:
            assert not names & set(value.split())
            assert not any(other != value and f"{other} ".startswith(f"{value} ") for other in relation.values)
            around = " ".join((*relation.openings, *relation.closings))
            assert not has_answer(around, value)


def test_a_split_without_questions_has_no_documents():
    documents, examples = generate(
        num_questions={"train": 0, "dev": 3, "test": 0}, num_documents=DEFAULT["num_documents"]
    )
    assert {example.split for example in examples} == {"dev"}
    assert all(name.startswith("bios-dev-") for name in documents)


@pytest.mark.parametrize(("rate", "largest"), [(0.0, 6322), (0.5, 157), (1.0, 79)])
def test_the_largest_possible_contexts_are_made_and_larger_ones_refused(rate, largest):
    changes = {"num_questions": {"test": 1}, "name_sharing_rate": rate}
    documents, (example,) = generate(num_documents={"test": [largest]}, **changes)
    assert len(set(example.document_ids)) == len(example.document_ids) == largest <= len(documents)
    with pytest.raises(ConfigError, match=rf"data\.test_documents {largest + 1} .* lower one of the two"):
        generate(num_documents={"test": [largest + 1]}, **changes)


def test_unlabelled_questions_say_nothing_of_their_answers_and_change_no_other_split(default):
    numbers = DEFAULT["num_questions"] | {"unlabelled": 300}
    _, examples = generate(num_questions=numbers, num_documents=DEFAULT["num_documents"] | {"unlabelled": [12]})
    asked = [example for example in examples if example.split == "unlabelled"]
    assert [example for example in examples if example.split != "unlabelled"] == default[1]
    assert len(asked) == 300 == len({example.question for example in asked})
    for example in asked:
        assert example.answers == example.evidence == example.gold_document_ids == []
        assert example.gold_position == -1 and example.subset == ""
        assert len(example.document_ids) == 12
        assert all(name.startswith("bios-train-") for name in example.document_ids)
    labelled = {example.question for example in examples if example.split == "train"}
    assert len(labelled & {example.question for example in asked}) < 150  # drawn apart, not the same ones


def test_the_surface_asks_the_same_questions_in_every_combination(default):
    documents, examples = generate(surface=[SplitQuestions("surface", 40, [2, 8], [0.0, 0.5, 1.0])])
    cells = {}
    for example in examples:
        if example.split == "surface":
            rate = name_sharing_rate_of(example.subset)
            cells.setdefault((len(example.document_ids), rate), []).append(example)
    assert [example for example in examples if example.split != "surface"] == default[1]
    assert sorted(cells) == [(size, rate) for size in (2, 8) for rate in (0.0, 0.5, 1.0)]
    asked = [[(example.question_id, example.question) for example in found] for found in cells.values()]
    assert all(found == asked[0] for found in asked) and len(asked[0]) == 40
    for (size, rate), found in cells.items():
        shared = sum(
            num_shared_names(documents[example.gold_document_ids[0]].title, documents[name].title)
            for example in found
            for name in example.document_ids
            if name not in example.gold_document_ids
        )
        assert shared / (40 * (size - 1)) == pytest.approx(rate, abs=0.12)


@pytest.mark.parametrize(("where", "place"), [("first", 0), ("middle", 4), ("last", 7)])
def test_the_gold_document_stands_where_it_is_put(where, place):
    _, examples = generate(num_questions={"test": 20}, num_documents={"test": [8]}, gold_position=where)
    assert {example.gold_position for example in examples} == {place}


def test_biographies_tell_as_many_facts_as_asked():
    documents, examples = generate(num_questions={"test": 200}, facts_per_person=[2, 8])
    assert {document.text.count(". ") + 1 for document in documents.values()} == {2, 8}
    assert len({example.question for example in examples}) == 200


def test_paraphrases_ask_for_the_same_facts_in_four_wordings(default):
    documents, examples = generate(wording="paraphrased")
    assert [replace(example, question="") for example in examples] == [
        replace(example, question="") for example in default[1]
    ]
    same = sum(example.question == plain.question for example, plain in zip(examples, default[1], strict=True))
    assert 0.2 < same / len(examples) < 0.3
    for example in examples:
        assert documents[example.gold_document_ids[0]].title in example.question
    for relation in bios.RELATIONS:
        assert len({relation.question, *relation.paraphrases}) == 4


def test_a_context_size_named_twice_is_refused():
    with pytest.raises(ConfigError, match=r"data\.dev_documents has a size twice: \[12, 12\]"):
        generate(num_questions={"dev": 3}, num_documents={"dev": [12, 12]})


def test_many_examples_stream_in_bounded_memory():
    documents, examples = bios.generate(1, [SplitQuestions("train", 32_000, [4], [0.25])])
    assert sum(1 for _ in documents) == 6400  # every biography is cached now
    stream = iter(examples)
    collections.deque(itertools.islice(stream, 2_000), maxlen=0)
    tracemalloc.start()
    collections.deque(itertools.islice(stream, 5_000), maxlen=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000  # kept, the 5,000 examples would be over 5 MB
    assert next(stream).question_id == "bios-train-7000"
