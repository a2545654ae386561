"""The sentences on what analyze found are its numbers, method by method, and survive what is missing."""

from typing import Any

from pipeline.report import analysis_words, wording
from tests.stages import made_results


def analysis(**changes: Any) -> dict[str, Any]:
    names = ("focused", "base")
    found = {
        "methods": {name: made_results.VIEWS | made_results.inside(12) for name in names},
        "answers": {name: made_results.answered(number, 12) for number, name in enumerate(names)},
    }
    return {**found, **changes}


def said(found: dict[str, Any]) -> list[str]:
    return [
        sentence.replace(wording.NO_BREAK, " ").replace(wording.MINUS, "-")
        for sentence in analysis_words.sentences(found)
    ]


def test_every_method_stands_in_every_sentence_with_its_own_number():
    found = analysis()
    found["methods"]["base"]["alignment"], found["methods"]["focused"]["alignment"] = 0.615, -0.25
    found["answers"]["base"]["errors"]["hallucinated"]["mean"] = 0.124
    sentences = said(found)
    assert len(sentences) == 9
    assert sentences[0] == "Cosine of the two views of a question: base 0.61, focused -0.25."
    assert any(s.startswith("Answers that stand nowhere in the context: base 12 %, focused ") for s in sentences)
    assert all("base " in sentence and "focused " in sentence for sentence in sentences)


def test_the_layer_named_is_the_one_that_looks_at_gold_most():
    found = analysis()
    layer = found["methods"]["focused"]["attention"]["layers"][0]
    layer["gold"] = {"mean": 0.91, "low": 0.9, "high": 0.92}
    (sentence,) = (s for s in said(found) if s.startswith("Attention"))
    assert f"in layer {layer['layer']} (" in sentence and "focused 91 %" in sentence
    for method in found["methods"].values():
        for layer in method["attention"]["layers"]:
            layer["gold"] = None
    assert not [s for s in said(found) if s.startswith("Attention")]


def test_what_was_not_measured_is_left_out():
    assert analysis_words.sentences({}) == []
    assert len(said(analysis(methods={}))) == 3
    inside = made_results.VIEWS | made_results.inside(12)
    inside["attention"] = inside["matching"] = None
    found = analysis(methods={"base": inside})
    for answers in found["answers"].values():
        answers["position"]["slope"] = None
    assert len(said(found)) == 4  # cosine, one answer, and where the answers stand
