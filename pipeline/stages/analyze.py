"""Stage analyze: what each method attends to, whether its two views mean the same, and what its wrong answers are.

It examines the examples of eval.split with the most documents. reports/analysis.json has, with 95 % intervals over
questions where a figure is a mean over examples:

    methods   probes of each method on the first analyze.examples: representations.Alignment, answers.compare,
              `matching` (representations.match) and `attention` (attention.figures)
    answers   probes of each file of predictions on all these examples: kinds of `errors` (answers.kind_shares) and the
              score by `position` of the gold document (answers.by_position)
"""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.analysis import inputs
from pipeline.analysis.run import probe_answers, probe_network
from pipeline.common import base_card, files, tables
from pipeline.evaluation import schema
from pipeline.model import loading
from pipeline.runtime import config
from pipeline.runtime.main import run
from pipeline.runtime.methods import METHODS

ANALYSIS = Path("reports/analysis.json")


def main() -> None:
    settings = config.load("analyze")
    card = base_card.read_card()
    others = [path.stem for path in sorted(schema.PREDICTIONS.path.glob("*.parquet"))]  # perhaps put there by hand
    with_predictions = dict.fromkeys((*METHODS, *others))
    tables.require_together(*inputs.SOURCES, *map(schema.predictions_of, with_predictions))
    longest = inputs.longest(settings.eval.split)
    chosen = inputs.first(longest, settings.analyze.examples)
    answered = {method: inputs.full_answers(method, longest) for method in with_predictions}
    methods: dict[str, Any] = {}
    for method in tqdm(METHODS, desc="analyze", unit=" methods", disable=None):
        network = loading.load_method(method, settings.model)
        full_answers = [answered[method][pair.full["example_id"]] for pair in chosen]
        methods[method] = probe_network(network, chosen, full_answers, longest, card, settings.eval)
    retained = [pair.masked["gold_retained"] for pair in chosen if pair.full["gold_position"] >= 0]  # else unknown
    analysis = {
        "num_examples": len(chosen),
        "num_documents": longest.num_documents,
        "gold_retained": sum(retained) / len(retained) if retained else None,
        "methods": methods,
        "answers": {
            method: probe_answers(rows, longest, settings.eval.bootstrap_resamples) for method, rows in answered.items()
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
