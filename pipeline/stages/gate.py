"""Stage gate: does masking keep enough of the evidence to train on? If not, the run stops before train@focused.

reports/gate.json
    verdict    passed | overridden (below the bar, or nothing tells good masks from bad ones, but gate.override is true)
               | exempt (a control retriever, which is meant to be that good or bad) | unchecked (the data name no gold
               for any train example: nothing can be checked, and training goes on)
    num_...    counts of the train examples as in reports/mask.json: what the verdict rests on, and what says nothing

It holds nothing else, so a bar that is moved without another verdict leaves the adapters as they are.
"""

from pathlib import Path
from typing import Any

from pipeline.common import files
from pipeline.runtime import config
from pipeline.runtime.errors import DataError
from pipeline.runtime.main import run
from pipeline.runtime.settings import GateSettings

MASK, RETRIEVAL = Path("reports/mask.json"), Path("reports/retrieval.json")
REPORT, VALIDATION = Path("reports/gate.json"), Path("reports/validation.json")
CONTROLS = ("oracle", "random", "worst")
_OTHER_RETRIEVER = f"choose another use.retriever ({VALIDATION} compares them)"
COUNTS = ("num_gold_known", "num_whole", "num_only_gold", "num_equal_scores")


def main() -> None:
    gate = config.load("gate").gate
    mask = files.read_json(MASK, "mask")
    retriever = files.read_json(RETRIEVAL, "score")["retriever"]["kind"]
    train = mask["splits"].get("train", {})
    verdict, why = judge(gate, retriever, train, mask["top_k"])
    files.write_json(REPORT, {"verdict": verdict, **{name: train.get(name, 0) for name in COUNTS}})
    print(f"gate: {verdict}; {why}")


def judge(gate: GateSettings, retriever: str, train: dict[str, Any], top_k: int) -> tuple[str, str]:
    """The verdict, and what it rests on. `train` are the train examples of reports/mask.json; empty: there are none.

    Raises:
        DataError: too little of the gold is kept; or every example that could tell is one of which nothing is masked,
            whose chunks are all gold, or whose scores are all equal.
    """
    if retriever in CONTROLS:
        return "exempt", f"{retriever} is a control and has no bar to reach"
    if train and train["whole_contexts"] == train["num_examples"]:
        problem = f"no context of a train example has more than {top_k} chunks, so nothing is masked"
        return _below(gate, problem, "the two views are one", "lower mask.top_k or chunk.words")
    known, whole, only_gold, equal = (train.get(name, 0) for name in COUNTS)
    num_measured = known - whole - only_gold
    is_all_chance = train and train["whole_contexts"] + train["equal_contexts"] == train["num_examples"]
    if is_all_chance or 0 < num_measured == equal:
        problem = f"{retriever} gave all chunks of a context one score, in every train example that could tell"
        return _below(gate, problem, "the kept chunks were drawn by chance", _OTHER_RETRIEVER)
    if not known:
        return "unchecked", "no train example has a known gold chunk, so nothing was checked"
    says_nothing = ((whole, "of which nothing is masked"), (only_gold, "with gold chunks alone"))
    apart = ", ".join(f"{num:,} {what}" for num, what in says_nothing if num)
    if not num_measured:
        return _below(
            gate,
            f"no train example says whether gold chunks are found ({apart})",
            "masks that keep the evidence cannot be told from masks that lose it",
            "name the evidence in the gold documents more narrowly, or give contexts documents that are not gold",
        )
    share, apart = train["gold_retained"], f" (apart: {apart})" if apart else ""
    kept = f"the top {top_k} chunks keep a gold chunk of {share:.1%} of {num_measured:,} train examples{apart}"
    if equal:
        kept += f"; {equal:,} with equal scores count as losing it"
    if share >= gate.min_gold_retained:
        return "passed", f"{kept}, at least {gate.min_gold_retained:.1%} are asked for"
    return _below(
        gate,
        f"{kept}, below gate.min_gold_retained {gate.min_gold_retained:.1%}",
        "focused training would learn from contexts without evidence",
        f"raise mask.top_k, {_OTHER_RETRIEVER}",
    )


def _below(gate: GateSettings, problem: str, effect: str, mend: str) -> tuple[str, str]:
    if gate.override:
        return "overridden", problem
    raise DataError(f"{MASK}: {problem}: {effect}; {mend}, or set gate.override: true")


if __name__ == "__main__":
    run(main)
