"""The columns of a prediction's row, the figures of many rows, and the difficulty surface, on literal examples."""

import re

import pytest

from pipeline.common.chunks import Chunk
from pipeline.common.tables import name_sharing_rate_of, subset_of
from pipeline.evaluation import score
from pipeline.report import text
from pipeline.views import tasks
from tests.report.test_summary import answer, summarised

EXAMPLE = {"benchmark": "bios", "answers": ["baker"], "options": [], "gold_option": -1}

CHUNKS = [
    Chunk("", "d0", "Ann Lee", "Ann Lee was a baker. "),
    Chunk("", "d1", "Bo Lee", "Bo Lee was born in Lyon. "),
    Chunk("", "d1", "Bo Lee", "He was a judge."),
]


def test_distractors_are_the_documents_that_are_not_gold_as_far_as_they_are_shown():
    assert score.distractors(CHUNKS, ["d0"]) == {"d1": "Bo Lee\nBo Lee was born in Lyon. \nHe was a judge."}
    assert score.distractors(CHUNKS[:2], ["d0"]) == {"d1": "Bo Lee\nBo Lee was born in Lyon. "}
    assert score.distractors(CHUNKS, ["d0", "d1"]) == {}


def test_nothing_is_known_to_distract_where_the_gold_document_is_unknown():
    assert score.distractors(CHUNKS, []) == {}


def test_a_row_names_the_document_that_holds_the_wrong_answer():
    distractors = score.distractors(CHUNKS, ["d0"])
    wrong = score.score("judge", EXAMPLE, distractors, [])
    assert wrong == {
        "prediction": "judge",
        "generated_option": -1,
        "likeliest_option": -1,
        "option_log_probs": [],
        "score": 0.0,
        "exact_match": 0.0,
        "token_f1": 0.0,
        "best_subspan_em": 0.0,
        "error": "distraction",
        "distractor_id": "d1",
    }
    right = score.score("a baker", EXAMPLE, distractors, [])
    assert (right["exact_match"], right["error"], right["distractor_id"]) == (1.0, "correct", "")
    assert score.score("doctor", EXAMPLE, distractors, [])["error"] == "other"


@pytest.mark.parametrize(
    ("generated", "log_probs", "expected", "exact_match", "options"),
    [
        ("B", [-3.0, -1.0, -2.0], 1.0, 1.0, (1, 1)),
        ("B", [-1.0, -1.0, -2.0], 0.0, 1.0, (1, 0)),  # of equals, the first
        ("(C) Snow", [-3.0, -1.0, -2.0], 1.0, 0.0, (2, 1)),
        ("who knows", [-1.0, -2.0, -3.0], 0.0, 0.0, (-1, 0)),
    ],
)
def test_a_multiple_choice_answer_is_scored_by_likelihood_and_by_what_was_written(
    generated, log_probs, expected, exact_match, options
):
    example = {**EXAMPLE, "benchmark": "quality", "options": ["Rain", "Hail", "Snow"], "gold_option": 1}
    found = score.score(generated, example, {}, log_probs)
    assert (found["score"], found["exact_match"]) == (expected, exact_match)
    assert (found["generated_option"], found["likeliest_option"]) == options
    assert found["error"] == ("correct" if expected else "other")
    assert score.generated_score(generated, example) == exact_match


def test_each_benchmark_is_scored_by_its_own_measure():
    answers = {"answers": ["the red fox", "No"], "options": []}
    assert score.generated_score("a red fox ran", {**answers, "benchmark": "bios"}) == 0.0
    for benchmark in ("qasper", "longbench"):
        assert score.generated_score("a red fox ran", {**answers, "benchmark": benchmark}) == pytest.approx(0.8)
    assert score.generated_score("the red fox", {**answers, "benchmark": "squality"}) == pytest.approx(1.0)


def test_an_answer_is_the_first_line_unless_the_task_has_many():
    assert score.answer_text(" Paris\nRome ", tasks.of("nq"), ["Paris"]) == "Paris"
    assert score.answer_text(" Paris\nRome ", tasks.of("squality"), ["Paris"]) == "Paris\nRome"


def test_as_many_lines_are_read_as_the_longest_reference_has():
    references = ["Paris", "Paris\nRome\n"]
    assert score.answer_text("Paris\nRome \nOslo", tasks.of("jsonl"), references) == "Paris\nRome"
    example = {**EXAMPLE, "benchmark": "jsonl", "answers": references[1:]}
    assert score.score("Paris\nRome", example, {}, [])["exact_match"] == 1.0


@pytest.mark.parametrize(
    ("prediction", "right"),
    [("A", 1.0), ("a.", 1.0), ("(A)", 1.0), ("", 0.0), ("The", 0.0), ("B", 0.0), ("An", 0.0), ("A banana", 0.0)],
)
def test_an_answer_that_is_an_article_is_compared_as_a_word(prediction, right):
    example = {**EXAMPLE, "benchmark": "jsonl", "answers": ["A"]}
    found = score.score(prediction, example, {}, [])
    assert [found[name] for name in score.METRICS] == [right] * 4
    # Official evaluators drop articles, and we agree with them.
    official = score.score("The", {**example, "benchmark": "nq"}, {}, [])
    assert official["exact_match"] == official["best_subspan_em"] == 1.0


def row(question_id, num_documents, gold_position, error, prompt_tokens=100):
    hit = float(error == "correct")
    return {
        "question_id": question_id,
        "benchmark": "bios",
        "num_documents": num_documents,
        "gold_position": gold_position,
        "prompt_tokens": prompt_tokens,
        "score": hit,
        "exact_match": hit,
        "token_f1": hit,
        "best_subspan_em": hit,
        "error": error,
    }


def test_figures_of_all_rows_by_length_and_by_position():
    rows = [
        row("p", 2, 0, "correct", 50),
        row("q", 2, 1, "distraction", 50),
        row("p", 10, 3, "other"),
        row("q", 10, 2, "distraction"),
        row("r", 10, -1, "other"),
    ]
    found = score.figures(rows, resamples=100)
    overall = found["overall"]
    assert (overall["n"], overall["num_questions"], overall["mean_prompt_tokens"]) == (5, 3, 80)
    assert overall["exact_match"]["mean"] == pytest.approx(0.2)
    assert overall["distraction_rate"]["mean"] == pytest.approx(0.4)
    assert overall["distraction_share_of_errors"] == pytest.approx(0.5)
    assert [(group["num_documents"], group["n"]) for group in found["by_num_documents"]] == [(2, 2), (10, 3)]
    places = [
        (group["num_documents"], group["first_position"], group["last_position"], group["n"])
        for group in found["by_gold_position"]
    ]
    assert places == [(2, 0, 0, 1), (2, 1, 1, 1), (10, 2, 3, 2)]  # positions 2 and 3 of 10 are the second fifth


def test_a_share_of_no_errors_is_no_number():
    found = score.figures([row("p", 2, 0, "correct"), row("q", 2, 1, "correct")], resamples=100)
    assert found["overall"]["distraction_share_of_errors"] is None
    assert found["overall"]["exact_match"] == {"mean": 1.0, "low": 1.0, "high": 1.0}


def surface_row(question, num_documents, rate, score, error):
    return {
        "method": "base", "input": "full", "question_id": question, "num_documents": num_documents,
        "subset": subset_of(rate), "score": score, "error": error,
    }  # fmt: skip


def test_cells_are_means_by_documents_and_rate_in_ascending_order():
    rows = [
        surface_row("a", 8, 0.5, 1.0, "correct"), surface_row("b", 8, 0.5, 0.0, "distraction"),
        surface_row("a", 8, 0.0, 1.0, "correct"), surface_row("a", 2, 1.0, 0.0, "other"),
    ]  # fmt: skip
    cells = score.surface(rows, resamples=200)
    assert [(cell["num_documents"], cell["name_sharing_rate"]) for cell in cells] == [(2, 1.0), (8, 0.0), (8, 0.5)]
    assert [cell["score"]["mean"] for cell in cells] == [0.0, 1.0, 0.5]
    assert [cell["distraction_rate"]["mean"] for cell in cells] == [0.0, 0.0, 0.5]
    assert [cell["num_examples"] for cell in cells] == [1, 1, 2]
    assert cells[2]["score"]["low"] == 0.0 and cells[2]["score"]["high"] == 1.0
    assert score.surface([], resamples=200) == []


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.25, 1.0])
def test_a_subset_names_its_rate(rate):
    assert name_sharing_rate_of(subset_of(rate)) == rate


def test_a_new_measure_is_one_entry_and_the_task_that_names_it(monkeypatch):
    def shouted(prediction, references):
        return float(prediction in [reference.upper() for reference in references])

    measure = score.Measure(shouted, "Shouted", "shouted answers", {"exact_match": "EM"}, note="Shouted: in capitals.")
    monkeypatch.setitem(score.MEASURES, "shouted", measure)
    monkeypatch.setitem(tasks.TASKS, "made", tasks.Task("Shout the answer.", "shouted", 8))
    example = {**EXAMPLE, "benchmark": "made"}
    found = [score.score(prediction, example, {}, [])["score"] for prediction in ("BAKER", "baker")]
    assert found == [1.0, 0.0]
    table = text.table(summarised([answer("q1", 1), answer("q2", 0)]))
    assert "| Shouted | 95 % interval | EM |" in re.sub(" +", " ", table)
    assert "shouted answers (Shouted)" in table and "Shouted: in capitals." in table
