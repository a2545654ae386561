"""Stage evaluate@<method>: the method's answers to the test questions, scored by the benchmark's own rules.

Each example is asked over its `full` context and, with `retrieval` at inference, over the best-ranked chunks alone (in
context order); with eval.longbench also over LongBench's choice of chunks. With eval.contexts `longest`, a question
that comes with several contexts is asked over the one of most documents. reports/eval/<method>.json has, for each
input, the same figures over all examples (`overall`), by number of documents, by number of documents and fifth of the
context that holds the gold document, and the `official` ones.

To score predictions of another system, use pipeline/tools/score_predictions.py.
"""

import sys
from pathlib import Path

from pipeline.common import files, tables
from pipeline.evaluation import predict, schema, score
from pipeline.model import distributed
from pipeline.runtime import config, methods
from pipeline.runtime.errors import ConfigError
from pipeline.runtime.main import run
from pipeline.views import tasks

FIGURES = Path("reports/eval")


def main() -> None:
    if "--score" in sys.argv:
        raise ConfigError(
            "evaluate does not score files; use `python -m pipeline.tools.score_predictions --predictions FILE "
            "--references FILE --benchmark NAME`"
        )
    method = methods.only(sys.argv[1:], "evaluate")
    settings = config.load("evaluate")
    split = settings.eval.split
    distributed.launch("pipeline.stages.evaluate", [method])
    stage, longest_only = f"evaluate@{method}", settings.eval.contexts == "longest"
    rows = predict.predictions(
        method, settings.model, settings.eval, split, settings.eval.top_k_of, stage, longest=longest_only
    )
    if rows is None:
        return
    if not rows:
        raise predict.no_examples(split)
    task = tasks.of(rows[0]["benchmark"])
    inputs = list(dict.fromkeys(row["input"] for row in rows))
    figures = {
        name: score.figures([row for row in rows if row["input"] == name], settings.eval.bootstrap_resamples)
        for name in inputs
    }
    tables.write(schema.predictions_of(method), rows, sources=predict.sources(settings.eval.top_k_of))
    files.write_json(FIGURES / f"{method}.json", {"method": method, "measure": task.measure, "inputs": figures})
    longest = [(name, figures[name]["by_num_documents"][-1]) for name in inputs]
    num_documents = longest[0][1]["num_documents"]
    print(
        f"evaluate@{method}: {len(rows) // len(inputs):,} {split} examples; {task.measure.replace('_', ' ')} at "
        f"{num_documents} document{'s' * (num_documents != 1)}: "
        + ", ".join(f"{name} {of['score']['mean']:.1%}" for name, of in longest)
        + f"; distraction errors {longest[0][1]['distraction_rate']['mean']:.1%}"
    )


if __name__ == "__main__":
    run(main)
