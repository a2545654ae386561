"""Numbers in words: sentences follow the numbers, the table survives its data, and what is missing is left out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.bootstrap import PairedDifference
from pipeline.report import summary, text
from tests.report.test_summary import answer, summarised
from tests.stages import made_results


def measured(vanilla: list[int], focused: list[int]) -> summary.Summary:
    hits = {"vanilla": vanilla, "focused": focused}
    return summarised(
        [answer(f"q{index}", hit, method) for method in hits for index, hit in enumerate(hits[method])], resamples=200
    )


def test_the_headline_says_above_when_the_interval_is_above_zero():
    said = text.headline(measured([0] * 30 + [1] * 10, [1] * 30 + [1] * 10))
    assert said.startswith("With 4 documents in the context, focused learning is 75.0 points above vanilla fine-tuning")
    assert "p\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}0.001; 40 questions" in said


def test_the_headline_says_below_when_the_interval_is_below_zero():
    said = text.headline(measured([1] * 30 + [0] * 10, [0] * 40))
    assert "focused learning is 75.0 points below vanilla" in said
    assert f"interval {text.MINUS}8" in said


def test_the_headline_claims_nothing_when_the_interval_holds_zero():
    said = text.headline(measured([1, 0] * 10, [0, 1] * 9 + [1, 1]))
    assert "there is no significant difference between focused learning and vanilla fine-tuning" in said
    assert "exact match differs by +5.0 points" in said
    same = text.headline(measured([1, 0] * 10, [1, 0] * 10))
    assert "no significant difference" in same and "differs by +0.0 points" in same


@pytest.mark.parametrize(
    ("num", "says"), [(1, "p = 1.000; 1 question)"), (5, "p = 0.062; 5 questions)"), (6, "p = 0.031; 6 questions)")]
)
def test_the_headline_claims_no_more_than_its_p_value(num: int, says: str):
    said = text.headline(measured([0] * num, [1] * num)).replace(text.NO_BREAK, " ")
    assert says in said
    assert ("points above" in said) == (num == 6) and ("no significant difference" in said) == (num < 6)


def test_the_headline_says_of_guided_learning_what_its_own_numbers_say():
    hits = {"vanilla": [0] * 30 + [1] * 10, "focused": [0] * 30 + [1] * 10, "guided": [1] * 30 + [1] * 10}
    rows = [answer(f"q{place}", hit, method) for method, of in hits.items() for place, hit in enumerate(of)]
    said = text.headline(summarised(rows, resamples=200))
    assert "no significant difference between focused learning and vanilla" in said
    assert ". Guided learning (ours) is 75.0 points above vanilla fine-tuning in exact match" in said


def test_the_headline_says_when_there_is_nothing_to_compare():
    assert "nothing to compare" in text.headline(summarised([answer("q", 1)], resamples=100))
    only_focused = summarised([answer("q", 1, "focused")], resamples=100)
    assert "nothing to compare" in text.headline(only_focused)


def test_the_headline_counts_examples_and_questions_apart_where_they_differ():
    rows = [answer(f"q{n // 2}/{n}", 1, method) for method in ("vanilla", "focused") for n in range(8)]
    assert "8 examples of 4 questions" in text.headline(summarised(rows, resamples=100))


def test_the_table_has_a_row_per_method_and_input_and_a_column_per_shorter_length():
    rows = [
        answer(f"q{n}/{length}", hit, method, given, length=length)
        for method, hit in (("vanilla", 0), ("focused", 1))
        for given in ("full", "retrieval")
        for length in (4, 8, 12)
        for n in range(3)
    ]
    header, rule, *body = text.table(summarised(rows, resamples=100)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in body[:4]]
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        "Method", "EM", "95 % interval", "F1", "Sub-span", "Distracted", "vs vanilla", "95 % interval", "p",
        "EM at 4", "EM at 8",
    ]  # fmt: skip
    assert [row[0] for row in cells] == ["vanilla", "vanilla + retrieval", "focused", "focused + retrieval"]
    assert cells[0] == ["vanilla", "0.0", "[0.0, 0.0]", "0.0", "0.0", "100.0", *[text.NONE] * 3, "0.0", "0.0"]
    assert cells[2][6:] == ["+100.0", "[+100.0, +100.0]", "0.250", "100.0", "100.0"]
    assert {len(line) for line in (header, rule, *body[:4])} == {len(header)}
    assert body[4] == "" and body[5].startswith("made: exact match (EM)") and "12 documents" in body[5]


@pytest.mark.parametrize(
    ("benchmark", "headings", "caption"),
    [
        (
            "quality",
            ["Accuracy", "95 % interval", "Generated", "vs vanilla"],
            "quality: accuracy and the other measures",
        ),
        ("qasper", ["F1", "95 % interval", "EM", "vs vanilla"], "qasper: answer F1 (F1) and the other measures"),
        ("squality", ["ROUGE-L", "95 % interval", "vs vanilla"], "squality: ROUGE-L and the other measures"),
    ],
)
def test_the_table_shows_the_measure_of_its_benchmark(benchmark: str, headings: list[str], caption: str):
    row = answer("q", 1, benchmark=benchmark, length=1, answer_types=["none"], gold_option=0, likeliest_option=0)
    said = text.table(summarised([row], resamples=100))
    assert [cell.strip() for cell in said.splitlines()[0].strip("|").split("|")][1 : 1 + len(headings)] == headings
    assert caption in said and "1 document in the context" in said


def test_poor_answers_of_the_shipped_model_are_said_to_be_poor_except_on_its_own_benchmark():
    bios = summarised([answer("q", 1, benchmark="bios")], resamples=100)
    quality = summarised([answer("q", 1, benchmark="quality")], resamples=100)
    assert "answers to quality are poor" in text.caution(quality, "models/tiny-base")
    assert text.caution(bios, "models/tiny-base") == text.caution(quality, "mistralai/Mistral-7B-v0.1") == ""


def test_hostile_names_stay_one_cell_of_text():
    name = "a|b <script> `x` *y* \x1b[31m\nnew"
    rows = [answer("q", 1, name, benchmark="<img src=x>|")]
    said = text.table(summarised(rows, resamples=100))
    assert r"a\|b \<script\> \`x\` \*y\* ␛\[31m new" in said
    assert r"\<img src=x\>\|" in said
    assert "\x1b" not in said and len(said.splitlines()) == 5


@given(st.text())
def test_visible_text_has_no_control_characters_and_keeps_the_rest(said: str):
    shown = text.visible(said)
    assert len(shown) == len(said)
    for before, after in zip(said, shown, strict=True):
        is_control = ord(before) < 32 or 127 <= ord(before) < 160
        assert (before == after) == (not is_control or before in "\n\t")


def test_numbers_are_written_in_percent_with_a_real_minus():
    assert [text.percent(share) for share in (0.0, 0.4717, 1.0)] == ["0.0", "47.2", "100.0"]
    assert text.points(-0.0312) == f"{text.MINUS}3.1"
    assert text.points_interval(PairedDifference(0.0, -0.01, 0.025, 0.5, 3)) == f"[{text.MINUS}1.0, +2.5]"
    assert [text.p_value(p).replace(text.NO_BREAK, " ") for p in (1.0, 0.0312, 0.0005, 0.0004)] == [
        "p = 1.000", "p = 0.031", "p = 0.001", "p < 0.001",
    ]  # fmt: skip


@pytest.mark.parametrize("p", [0.0005, 0.00051])
def test_a_p_value_is_never_written_as_zero(p: float):
    assert "0.000" not in text.p_value(p)


def test_the_caption_says_where_retrieval_reads_the_whole_context():
    rows = [
        answer(
            f"q{n}/{length}", n % 2, method, given, length=length, prompt_tokens=40 * (length if given == "full" else 4)
        )
        for n in range(6)
        for length in (4, 8)
        for method in ("vanilla", "focused")
        for given in ("full", "retrieval")
    ]
    same = " With 4 documents these are the whole context, so both rows of a method are equal."
    assert text.caption(summarised(rows, resamples=100)).endswith(f"only the best-scored chunks.{same}")
    rows[1] |= {"score": 1.0 - rows[1]["score"]}  # as many tokens, but another answer: not the same reading
    assert "the whole context" not in text.caption(summarised(rows, resamples=100))
    longer = [row for row in rows if row["num_documents"] == 8]
    assert text.caption(summarised(longer, resamples=100)).endswith("only the best-scored chunks.")


def analysis(**changes: Any) -> dict[str, Any]:
    names = ("focused", "base")
    found = {
        "methods": {name: made_results.VIEWS | made_results.inside(12) for name in names},
        "answers": {name: made_results.answered(number, 12) for number, name in enumerate(names)},
    }
    return {**found, **changes}


def sentences(found: dict[str, Any]) -> list[str]:
    return [
        sentence.replace(text.NO_BREAK, " ").replace(text.MINUS, "-") for sentence in text.analysis_sentences(found)
    ]


def test_every_method_stands_in_every_sentence_with_its_own_number():
    found = analysis()
    found["methods"]["base"]["alignment"], found["methods"]["focused"]["alignment"] = 0.615, -0.25
    found["answers"]["base"]["errors"]["hallucinated"]["mean"] = 0.124
    written = sentences(found)
    assert len(written) == 9
    assert written[0] == "Cosine similarity of the two views of a question: base 0.61, focused -0.25."
    assert any(s.startswith("Wrong answers that occur nowhere in the context: base 12 %, focused ") for s in written)
    assert all("base " in sentence and "focused " in sentence for sentence in written)


def test_the_layer_named_is_the_one_that_looks_at_gold_most():
    found = analysis()
    layer = found["methods"]["focused"]["attention"]["layers"][0]
    layer["gold"] = {"mean": 0.91, "low": 0.9, "high": 0.92}
    (sentence,) = (s for s in sentences(found) if s.startswith("Attention"))
    assert f"in layer {layer['layer']} (" in sentence and "focused 91 %" in sentence
    for method in found["methods"].values():
        for layer in method["attention"]["layers"]:
            layer["gold"] = None
    assert not [s for s in sentences(found) if s.startswith("Attention")]


def test_what_was_not_measured_is_left_out():
    assert text.analysis_sentences({}) == []
    assert len(sentences(analysis(methods={}))) == 3
    inside = made_results.VIEWS | made_results.inside(12)
    inside["attention"] = inside["matching"] = None
    found = analysis(methods={"base": inside})
    for answers in found["answers"].values():
        answers["position"]["slope"] = None
    assert len(sentences(found)) == 4  # cosine, one answer, and where the answers stand


def test_the_caption_says_what_guided_learning_is_where_it_ran():
    note = "Guided (ours): the base answers over the best-scored chunks and teaches these answers"
    assert note in text.caption(summarised([answer("q", 1, "guided")]))
    assert "Guided" not in text.caption(summarised([answer("q", 1, "focused")]))
