"""Facts about an adapter that its files do not hold: whether it is that of the present inputs, and its results."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.common import base_card, files, tables
from pipeline.model import loading
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError
from pipeline.runtime.main import commit
from pipeline.training import model_card
from pipeline.training.model_card import Facts, Result

FIGURES = Path("reports/eval")


def changed(*stages: str) -> dict[str, list[str]] | None:
    """Ask DVC which of these stages are out of date, each with what has changed; None where DVC does not know."""
    asked = subprocess.run([sys.executable, "-m", "dvc", "status", "--json", *stages], capture_output=True, text=True)
    if asked.returncode != 0:
        return None
    found = json.loads(asked.stdout)
    return {stage: sorted(_names(entries)) for stage, entries in found.items()}


def _names(entries: list[Any]) -> set[str]:
    """Name what has changed: files and folders, settings, or the command."""
    names: set[str] = set()
    for entry in entries:
        if isinstance(entry, str):
            names.add(entry)
            continue
        for parts in entry.values():
            for name, what in parts.items():  # of a file with settings, those that have changed
                names |= set(what) if isinstance(what, dict) else {name}
    return names


def card(method: str, *, merged: bool) -> str:
    """Write the card of a method's adapter with what is known now.

    Results are given only where DVC finds neither the training nor the evaluation of this adapter out of date.

    Raises:
        ArtifactError: a file is missing or broken.
    """
    base, folder = base_card.read_card(), base_card.MODELS / method
    trained = files.read_json(folder / loading.TRAINED, f"train@{method}")
    if missing := {"method", "settings", "tables"} - set(trained):
        raise ArtifactError(
            f"{folder / loading.TRAINED}: has no {min(missing)}, as adapters of an earlier version; run `dvc repro "
            f"train@{method}`"
        )
    path, why = FIGURES / f"{method}.json", ""
    if not path.is_file():
        why = "the model has not been evaluated"
    elif (stale := changed(f"train@{method}", f"evaluate@{method}")) is None:
        why = "DVC cannot tell whether the last ones are of this model"
    elif stale:
        why = f"the last ones are of another state (out of date: {', '.join(stale)})"
    results = [] if why else _results(path)
    facts = Facts(commit(), adapter_sha256(method), results, why)
    return model_card.render(trained, base, base_on_hub=loading.is_on_hub(base), merged=merged, facts=facts)


def adapter_sha256(method: str) -> str:
    """Return the SHA-256 of the weights of a method's adapter."""
    with (base_card.MODELS / method / loading.WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _results(path: Path) -> list[Result]:
    """Read the results at the longest context: exact match and, where it is another, the benchmark's own measure."""
    found = files.read_json(path, f"evaluate@{path.stem}")
    benchmark = next(tables.scan(tables.EXAMPLES, ["benchmark"]))["benchmark"]
    split = config.load("evaluate").eval.split
    own = [] if found["measure"] == "exact_match" else [(found["measure"], "score")]
    results = []
    for name, figures in found["inputs"].items():
        group = figures["by_num_documents"][-1]
        for measure, column in [*own, ("exact_match", "exact_match")]:
            of = group[column]
            results.append(
                Result(
                    benchmark, split, name, group["num_documents"], measure, of["mean"], of["low"], of["high"],
                    group["n"],
                )
            )  # fmt: skip
    return results
