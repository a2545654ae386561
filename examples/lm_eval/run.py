"""Scores an adapter, or a merged model, in lm-evaluation-harness, and compares with the answers of stage evaluate.

    python examples/lm_eval/run.py METHOD [--merged FOLDER] [--limit N]

Run it in the project's root, after `dvc repro evaluate` and an export to exports/lm-eval (`make lm-eval` does all).
The answers are greedy, as long and with the same tokens banned as those of stage evaluate. Greedy decoding can part
where two tokens are equally likely, which rounding decides, so both shares are printed and every question that differs
is counted. Exit code 1: the shares differ.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipeline.common import base_card, tables
from pipeline.common.device import device
from pipeline.evaluation import schema
from pipeline.model import loading
from pipeline.runtime import config, methods
from pipeline.runtime.errors import ArtifactError, ResourceError
from pipeline.runtime.main import run
from pipeline.tools import arguments
from pipeline.views import tasks

HERE = Path(__file__).parent
TASK = "focused_learning"


def main() -> None:
    parser = arguments.ArgumentParser(prog="python examples/lm_eval/run.py", description=__doc__)
    parser.add_argument("method", type=arguments.one_of(tuple(methods.METHODS)))
    parser.add_argument("--merged", type=Path, help="the folder that `make merge` wrote; without it the adapter")
    parser.add_argument("--limit", type=arguments.positive, help="questions, from the first one on; all without it")
    asked = parser.parse_args(sys.argv[1:])
    answers = evaluate(asked.method, asked.merged, asked.limit)
    ours = tables.frame(schema.predictions_of(asked.method), ["example_id", "input", "exact_match"])
    own = {row["example_id"]: row["exact_match"] for row in ours.filter(input="full").iter_rows(named=True)}
    if missing := sorted(answers.keys() - own.keys()):
        raise ArtifactError(
            f"{schema.predictions_of(asked.method)}: has no {missing[0]}, which was asked here; set eval.split to test "
            f"and eval.contexts to all, and run `dvc repro evaluate@{asked.method}`"
        )
    differing = [name for name, value in answers.items() if own[name] != value]
    theirs, mine = (sum(found[name] for name in answers) / len(answers) for found in (answers, own))
    print(
        f"lm-eval: {asked.merged or asked.method} has exact match {theirs:.4%} over {len(answers):,} questions; stage "
        f"evaluate has {mine:.4%} on the same; {len(differing):,} questions are scored otherwise"
    )
    if theirs != mine:
        sys.exit(1)


def evaluate(method: str, merged: Path | None, limit: int | None) -> dict[str, float]:
    """Return the exact match of each question, by its example_id.

    Raises:
        ResourceError: lm-evaluation-harness is not installed.
    """
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ResourceError(f"{error}; run `make lm-eval`, or `pip install lm_eval`") from None
    settings, card = config.load("evaluate"), base_card.read_card()
    benchmark = next(tables.scan(tables.EXAMPLES, ["benchmark"]))["benchmark"]
    longest = settings.eval.max_new_tokens or tasks.of(benchmark).max_new_tokens
    if merged is not None:
        model: dict[str, Any] = {"pretrained": str(merged)}
    else:
        adapter = {} if method == methods.BASE else {"peft": str(loading.find_adapter(method, card))}
        tokenizer = str(base_card.MODELS / method)
        model = {"pretrained": str(loading.find_base(settings.model)), "tokenizer": tokenizer, **adapter}
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args=model | {"dtype": settings.model.dtype, "max_length": settings.model.max_tokens + longest},
        tasks=[TASK],
        task_manager=TaskManager(include_path=str(HERE), include_defaults=False),
        gen_kwargs={
            "max_gen_toks": longest,
            "suppress_tokens": sorted((card.mask_id, card.pad_id)),
            "eos_token_id": card.eos_ids,
        },
        batch_size=8,
        device=str(device()),  # its own default is the first GPU
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
    )
    return {sample["doc"]["example_id"]: sample["exact_match"] for sample in found["samples"][TASK]}


if __name__ == "__main__":
    run(main)
