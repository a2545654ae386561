"""Agreement with the official evaluators, and the classes of errors."""

import json
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.text import normalize
from pipeline.evaluation import metrics, multiple_choice

WORDS = st.lists(st.sampled_from(["the", "a", "red", "Red", "fox", "fox.", "-", "1,000", "café"]), max_size=6)
TEXTS = WORDS.map(" ".join)


def vectors(shared, name):
    lines = (shared / "golden" / "metrics" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("file", "metric", "function", "num_vectors"),
    [
        ("squad_v2", "squad_v2_em", metrics.exact_match, 66),
        ("squad_v2", "squad_v2_f1", metrics.token_f1, 66),
        ("litm_best_subspan_em", "best_subspan_em", metrics.best_subspan_em, 61),
        ("qasper_answer_f1", "qasper_token_f1_max", metrics.qasper_token_f1, 61),
        ("longbench_qa_f1", "longbench_qa_f1_score", metrics.longbench_qa_f1, 61),
    ],
)
def test_every_golden_vector_is_met(shared, file, metric, function, num_vectors):
    rows = [row for row in vectors(shared, file) if row["metric"] == metric]
    assert len(rows) == num_vectors
    for row in rows:
        found = function(row["prediction"], row["references"])
        assert isinstance(found, float)
        assert found == pytest.approx(row["expected"], abs=1e-9), row["id"]


def test_every_golden_vector_is_met_after_the_cut_to_the_first_line(shared):
    for row in vectors(shared, "litm_best_subspan_em"):
        found = metrics.best_subspan_em(metrics.first_line(row["prediction"]), row["references"])
        assert found == pytest.approx(row["expected_after_first_line"], abs=1e-9), row["id"]


def test_every_golden_vector_of_quality_is_met(shared):
    rows = vectors(shared, "quality_accuracy")
    assert len(rows) == 10
    for row in rows:
        found = multiple_choice.quality_accuracy(row["prediction"], row["references"])
        assert found == pytest.approx(row["expected"], abs=1e-9), row["id"]


def test_the_two_golden_totals_of_longbench_are_met(shared):
    rows = {row["metric"]: row for row in vectors(shared, "longbench_qa_f1") if row["id"].startswith("aggregate")}
    cuts = {"qasper": str, "triviaqa": lambda text: text.lstrip("\n").split("\n")[0]}
    assert rows.keys() == {f"longbench_scorer[{task}]" for task in cuts}
    for task, cut in cuts.items():
        row = rows[f"longbench_scorer[{task}]"]
        pairs = zip(row["prediction"], row["references"], strict=True)
        scores = [metrics.longbench_qa_f1(cut(prediction), references) for prediction, references in pairs]
        assert round(100 * sum(scores) / len(scores), 2) == pytest.approx(row["expected"], abs=1e-9)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("red fox", "a red fox", 1.0),
        ("red", "red fox", 2 / 3),
        ("yes", "Yes.", 1.0),
        ("yes it is", "yes", 0.0),
        ("no", "no man", 0.0),
        ("no answer", "noanswer", 0.0),
        ("no man", "no way", 0.5),
        ("", "", 0.0),
    ],
)
def test_yes_and_no_are_right_or_wrong_as_a_whole_in_hotpot(prediction, reference, expected):
    assert metrics.hotpot_f1(prediction, [reference]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Paris\nLondon", "Paris"),
        ("\nParis", ""),
        ("Paris\r\nLondon", "Paris"),
        ("Paris\u2028London", "Paris\u2028London"),
        ("", ""),
    ],
)
def test_first_line_cuts_at_the_first_newline_only(text, expected):
    assert metrics.first_line(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The best-known, a U.S. state", "bestknown us state"),
        ("the-best", "thebest"),
        ("C++ and 3.14", "c and 314"),
        ("“Paris”", "“paris”"),
        ("an\u0303o", "\u0303o"),
        (" A \t the\u00a0An ", ""),
    ],
)
def test_punctuation_goes_before_articles_do(text, expected):
    assert normalize(text) == expected


def test_the_two_official_word_borders_differ_behind_a_combining_mark():
    assert metrics.exact_match("\u0303o", ["an\u0303o"]) == 1.0
    assert metrics.best_subspan_em("\u0303o", ["an\u0303o"]) == 0.0


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "squad_f1", "qasper_f1", "subspan"),
    [
        ("Trumpet", ["Trump"], 0.0, 0.0, 0.0, 1.0),
        ("", [], 1.0, 1.0, 0.0, 0.0),
        ("the", [""], 1.0, 1.0, 0.0, 1.0),
        ("red fox", ["", "fox"], 0.0, 2 / 3, 2 / 3, 1.0),
        ("fox fox", ["fox"], 0.0, 2 / 3, 2 / 3, 1.0),
        ("red fox", ["blue", "a red fox"], 1.0, 1.0, 1.0, 1.0),
    ],
)
def test_metrics_of_literal_pairs(prediction, references, exact, squad_f1, qasper_f1, subspan):
    assert metrics.exact_match(prediction, references) == exact
    assert metrics.token_f1(prediction, references) == pytest.approx(squad_f1)
    assert metrics.qasper_token_f1(prediction, references) == pytest.approx(qasper_f1)
    assert metrics.best_subspan_em(prediction, references) == subspan


@pytest.mark.parametrize(
    ("prediction", "reference", "exact", "f1", "subspan"),
    [
        ("1900年。", "1900年", 1.0, 1.0, 1.0),
        ("「\uff11\uff19\uff10\uff10年」", "1900 年", 1.0, 1.0, 1.0),
        ("在1900年", "1900年", 0.0, 0.8, 1.0),
        ("卡尔马克思", "卡尔·马克思", 1.0, 1.0, 1.0),
        ("กรุงเทพ", "กรุงเทพ", 1.0, 1.0, 1.0),
        ("灯桥", "灯塔", 0.0, 0.5, 0.0),
        # English references are compared as their evaluators compare them, whatever is answered.
        ("Beijing 北京", "Beijing", 0.0, 2 / 3, 1.0),
        ("“Beijing”", "Beijing", 0.0, 0.0, 1.0),
    ],
)
def test_answers_without_blanks_are_compared_by_letters(prediction, reference, exact, f1, subspan):
    assert metrics.exact_match(prediction, [reference]) == exact
    assert metrics.token_f1(prediction, [reference]) == pytest.approx(f1)
    assert metrics.qasper_token_f1(prediction, [reference]) == pytest.approx(f1)
    assert metrics.hotpot_f1(prediction, [reference]) == pytest.approx(f1)
    assert metrics.best_subspan_em(prediction, [reference]) == subspan


def test_a_wrong_answer_is_found_in_a_distractor_without_blanks():
    found = metrics.error_class("1901年。", ["1900年"], {"d": "王洋在1901年成为看守人。"})
    assert found == ("distraction", "d")


def slow_normalize(text):
    kept = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def slow_f1(found, expected):
    if not found or not expected:
        return float(found == expected)
    shared = sum(min(Counter(found)[word], Counter(expected)[word]) for word in set(found))
    return 2 * shared / (len(found) + len(expected))


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_token_f1_agrees_with_a_slow_form(prediction, references):
    real = [slow_normalize(reference) for reference in references if slow_normalize(reference)] or [[]]
    expected = max(slow_f1(slow_normalize(prediction), reference) for reference in real)
    assert metrics.token_f1(prediction, references) == pytest.approx(expected)


@given(st.text(), st.lists(st.text(), max_size=3))
def test_any_text_scores_between_0_and_1_and_an_exact_match_has_f1_of_1(prediction, references):
    exact = metrics.exact_match(prediction, references)
    f1 = metrics.token_f1(prediction, references)
    assert exact in (0.0, 1.0) and metrics.best_subspan_em(prediction, references) in (0.0, 1.0)
    assert exact <= f1 <= 1.0 and 0.0 <= metrics.qasper_token_f1(prediction, references) <= f1


@given(st.text() | TEXTS, st.lists(st.text() | TEXTS, min_size=1, max_size=3), TEXTS)
def test_one_more_reference_never_lowers_a_score(prediction, references, more):
    every = [metrics.best_subspan_em, metrics.qasper_token_f1, metrics.longbench_qa_f1, metrics.hotpot_f1]
    if any(normalize(reference) for reference in references):
        # SQuAD 2.0 drops empty references beside real ones, so that a first real one may lower a score.
        every += [metrics.exact_match, metrics.token_f1]
    for function in every:
        assert 0.0 <= function(prediction, references) <= function(prediction, [*references, more]) <= 1.0


DISTRACTORS = {
    "d0": "Ann Lee\nAnn Lee was a baker in Lyon.",
    "d1": "Ann Roe\nAnn Roe, born in New York, was a judge. Trumpets.",
}


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("Paris", ("correct", "")),
        ("the Paris!", ("correct", "")),
        ("Lyon", ("distraction", "d0")),
        ("was a", ("distraction", "d0")),  # in both: the first one is named
        ("new york", ("distraction", "d1")),
        ("New York.", ("distraction", "d1")),  # ends that exact match ignores
        ("Trumpet", ("other", "")),  # a part of a word is no token sequence
        ("York New", ("other", "")),
        ("London", ("other", "")),
        ("", ("other", "")),
        (".", ("other", "")),  # stands in every text, and says nothing
        ("a", ("other", "")),
    ],
)
def test_a_wrong_answer_that_stands_in_a_distractor_is_a_distraction(prediction, expected):
    assert metrics.error_class(prediction, ["Paris"], DISTRACTORS) == expected


def test_without_distractors_no_error_is_a_distraction():
    assert metrics.error_class("Lyon", ["Paris"], {}) == ("other", "")


PARAGRAPHS = st.lists(st.sampled_from(["p1", "p2", "p1 ", f"{metrics.NO_TEXT}: Table 1"]), max_size=4)


def test_figures_are_removed_from_the_references_only():
    evidence = ["p1", f"{metrics.NO_TEXT}: Table 1"]
    assert metrics.qasper_evidence_f1(evidence, [evidence]) == 1.0
    assert metrics.qasper_evidence_f1(evidence, [evidence], text_evidence_only=True) == pytest.approx(2 / 3)


def test_no_evidence_is_right_where_an_annotator_gave_none_and_a_paragraph_given_twice_costs():
    assert metrics.qasper_evidence_f1([], [["p1"], []]) == 1.0
    assert metrics.qasper_evidence_f1(["p1", "p1"], [["p1"]]) == pytest.approx(2 / 3)


@given(PARAGRAPHS, st.lists(PARAGRAPHS, min_size=1, max_size=3), st.lists(PARAGRAPHS, max_size=2))
def test_evidence_f1_is_bounded_and_one_more_annotator_never_lowers_it(predicted, references, more):
    few, many = (
        metrics.qasper_evidence_f1(predicted, references),
        metrics.qasper_evidence_f1(predicted, references + more),
    )
    assert 0.0 <= few <= many <= 1.0
    assert few == max(metrics.qasper_evidence_f1(predicted, [reference]) for reference in references)
