"""What analyze found, in sentences made of its numbers: for the page and the README."""

from collections.abc import Mapping
from typing import Any

from pipeline.report import wording
from pipeline.report.analysis_figures import in_order

Values = Mapping[str, Any]
_PERCENT = f"{wording.NO_BREAK}%"


def sentences(analysis: Values) -> list[str]:
    """One for each thing that was measured, every method in it; what a file lacks is left out."""
    inside = dict(in_order(analysis.get("methods", {})))
    answers = dict(in_order(analysis.get("answers", {})))
    alike = {method: f"{of['alignment']:.2f}" for method, of in inside.items() if "alignment" in of}
    same = {method: _percent(of["answers_equal"]) for method, of in inside.items() if "answers_equal" in of}
    slopes = {method: found for method, of in answers.items() if (found := of["position"]["slope"]) is not None}
    nowhere = {method: _percent(of["errors"]["hallucinated"]["mean"]) for method, of in answers.items()}
    distracted = {method: _percent(of["errors"]["distraction"]["mean"]) for method, of in answers.items()}
    found = [
        _listed("Cosine of the two views of a question", alike),
        _listed("Questions with one answer to both views", same),
        *_matched(inside),
        _looked(inside),
        _listed(
            "Points of the score from the gold document in the first place to the last",
            {method: wording.points(slope["mean"]) for method, slope in slopes.items()},
        ),
        _listed("Answers that stand nowhere in the context", nowhere),
        _listed("Answers that stand in a distractor", distracted),
    ]
    return [sentence for sentence in found if sentence]


def _matched(inside: Values) -> list[str]:
    """Whether the answer, the context or the question is what the two views are matched by."""
    matching = {method: of["matching"] for method, of in inside.items() if of.get("matching")}
    if not matching:
        return []
    chance = {name: _percent(one["chance"]) for name, one in next(iter(matching.values())).items()}
    names = {
        "shuffled": "Full views whose nearest masked view is their own, when both have another example's question "
        f"(by chance {chance['shuffled']})",
        "one_question": "The same when all have one question, so that only the contexts differ "
        f"({chance['one_question']})",
        "same_context": f"The same in one context, so that only the question differs ({chance['same_context']})",
    }
    return [
        _listed(says, {method: _percent(of[name]["mean"]) for method, of in matching.items()})
        for name, says in names.items()
    ]


def _looked(inside: Values) -> str:
    """In the layer that looks at gold most, of all methods."""
    looked = {method: of["attention"] for method, of in inside.items() if of.get("attention")}
    shares = {
        (layer["layer"], method): layer["gold"]["mean"]
        for method, of in looked.items()
        for layer in of["layers"]
        if layer["gold"] is not None
    }
    if not shares:
        return ""
    most, _ = max(shares, key=lambda place: shares[place])
    even = _percent(next(iter(looked.values()))["token_shares"]["gold"])
    return _listed(
        f"Attention of the last prompt token to the gold chunks in layer {most} (uniform attention: {even})",
        {method: _percent(shares[most, method]) for method in looked if (most, method) in shares},
    )


def _listed(name: str, values: Mapping[str, str]) -> str:
    return f"{name}: {', '.join(f'{method} {value}' for method, value in values.items())}." if values else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f}{_PERCENT}"
