"""Stage analyze: what each method looks at, whether its two views mean the same, and what its wrong answers are.

All of it on the examples of eval.split with the most documents. reports/analysis.json has, with 95 % intervals over
questions where a figure is a mean over examples:

    methods   of each, on the first analyze.examples: alignment.Alignment, equivalence.compare, `matching` (see
              matching.figures) and `attention` (attention_shares.figures)
    answers   of each file of predictions, on all of them: kinds of `errors` (wrong_answers.shares) and the score by
              `position` of the gold document (position_bias.along)
"""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.analysis import inputs
from pipeline.analysis.run import answers_of, attention_of, equivalence_of, representations_of
from pipeline.common import files
from pipeline.common.methods import METHODS
from pipeline.model import loading
from pipeline.runtime import config
from pipeline.runtime.main import run

ANALYSIS = Path("reports/analysis.json")


def main() -> None:
    settings = config.load("analyze")
    card = loading.read_card()
    longest = inputs.longest(settings.eval.split)
    chosen = inputs.first(longest, settings.analyze.examples)
    answered = {
        method: inputs.full_answers(method, longest) for method in dict.fromkeys((*METHODS, *inputs.answered()))
    }
    methods: dict[str, Any] = {}
    for method in tqdm(METHODS, desc="analyze", unit=" methods", disable=None):
        network = loading.load_method(method, settings.model)
        looked = attention_of(network, chosen, longest, card, settings.eval)
        full = [answered[method][pair.full["example_id"]] for pair in chosen]
        same = equivalence_of(network, chosen, full, card, settings.eval)
        compared = representations_of(network, chosen, card, settings.eval)
        intervals = {**compared["intervals"], **same["intervals"]}
        methods[method] = {**compared, **same, "intervals": intervals, "attention": looked}
    retained = [pair.masked["gold_retained"] for pair in chosen if pair.full["gold_position"] >= 0]  # else unknown
    analysis = {
        "num_examples": len(chosen),
        "num_documents": longest.num_documents,
        "gold_retained": sum(retained) / len(retained) if retained else None,
        "methods": methods,
        "answers": {
            method: answers_of(rows, longest, settings.eval.bootstrap_resamples) for method, rows in answered.items()
        },
    }
    files.write_json(ANALYSIS, analysis)
    found = ", ".join(f"{name} {of['alignment']:.2f}/{of['answers_equal']:.0%}" for name, of in methods.items())
    print(
        f"analyze: {len(chosen):,} {settings.eval.split} examples at {longest.num_documents} documents; cosine of the "
        f"views / same answer from both: {found}"
    )


if __name__ == "__main__":
    run(main)
