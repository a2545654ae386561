"""Stage gate: does masking keep enough of the evidence to train on? If not, the run stops before train@focused.

reports/gate.json
    verdict    passed | overridden (below the bar, but gate.override is true) | exempt (a control retriever, which is
               meant to be that good or bad) | unchecked (no train example has a known gold chunk)

It holds nothing else, so a bar that is moved without another verdict leaves the adapters as they are.
"""

from pathlib import Path

from pipeline.common import files
from pipeline.runtime import config
from pipeline.runtime.errors import DataError
from pipeline.runtime.main import run
from pipeline.runtime.settings import GateSettings

MASK, RETRIEVAL = Path("reports/mask.json"), Path("reports/retrieval.json")
REPORT = Path("reports/gate.json")
CONTROLS = ("oracle", "random", "worst")


def main() -> None:
    gate = config.load("gate").gate
    mask = files.read_json(MASK, "mask")
    retriever = files.read_json(RETRIEVAL, "score")["retriever"]["kind"]
    train = mask["splits"].get("train", {})
    verdict, why = judge(gate, retriever, train.get("gold_retained"), train.get("num_gold_known", 0), mask["top_k"])
    files.write_json(REPORT, {"verdict": verdict})
    print(f"gate: {verdict}; {why}")


def judge(
    gate: GateSettings, retriever: str, gold_retained: float | None, num_known: int, top_k: int
) -> tuple[str, str]:
    """The verdict, and what it rests on. `gold_retained` is that of the train examples, None when it is unknown.

    Raises:
        DataError: too little of the gold is kept.
    """
    if retriever in CONTROLS:
        return "exempt", f"{retriever} is a control and has no bar to reach"
    if gold_retained is None:
        return "unchecked", "no train example has a known gold chunk, so nothing was checked"
    kept = f"the top {top_k} chunks keep a gold chunk of {gold_retained:.1%} of {num_known:,} train examples"
    if gold_retained >= gate.min_gold_retained:
        return "passed", f"{kept}, at least {gate.min_gold_retained:.1%} are asked for"
    if gate.override:
        return "overridden", f"{kept}, below gate.min_gold_retained {gate.min_gold_retained:.1%}"
    raise DataError(
        f"{MASK}: {kept}, below gate.min_gold_retained {gate.min_gold_retained:.1%}: focused training would learn from "
        f"contexts without evidence; raise mask.top_k, choose another use.retriever (reports/validation.json compares "
        "them), or set gate.override: true"
    )


if __name__ == "__main__":
    run(main)
