"""Trains a small real model on the documents of examples/own, and shows its answers before and after.

    python -m pipeline.tools.example

It runs in a copy of the project, so that params.yaml, dvc.lock and the models of the user stay as they are. A second
call takes over what the first one has finished. examples/quickstart.ipynb goes the same way step by step.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML

from pipeline.common import files, tables
from pipeline.evaluation import schema
from pipeline.runtime import config
from pipeline.runtime.errors import ResourceError
from pipeline.runtime.main import run
from pipeline.runtime.methods import BASE, METHODS, TRAINED, VANILLA
from pipeline.tools import arguments
from pipeline.tools.ablations import runs

FOLDER = Path(".dvc/tmp/example")
PROJECT = FOLDER / "project"
OWN = Path("examples/own")
SHOWN_QUESTIONS = 3


class Compared(NamedTuple):
    """A test question with its first reference, and a row of schema.PREDICTIONS by the untuned and the tuned model."""

    question: str
    reference: str
    context: tuple[str, ...]
    """Ids of its documents."""
    before: tables.Row
    after: tables.Row


def main() -> None:
    """Copy the project, run its stages, and print answers and scores.

    Raises:
        ConfigError: the method is unknown, a setting of the project is wrong, or it is no git repository.
        ResourceError: a stage has failed, another call is running, or git or DVC is missing.
    """
    parser = arguments.ArgumentParser(prog="python -m pipeline.tools.example", description=__doc__)
    parser.add_argument("--method", type=arguments.one_of(TRAINED), default=VANILLA, help=f"of {', '.join(TRAINED)}")
    method = parser.parse_args(sys.argv[1:]).method
    config.main()
    with runs.alone(FOLDER) as lock:
        make_project()
        repro(f"evaluate@{BASE}", f"evaluate@{method}", lock=lock)
    _print_answers(method, compared(method))


def make_project() -> None:
    """Copy the project into PROJECT, with the example's documents and questions in input/own, and its settings."""
    runs.copy_project(PROJECT)
    place = PROJECT / "input/own"
    place.mkdir(parents=True)
    for path in OWN.glob("*.jsonl"):
        shutil.copy(path, place)
    yaml = YAML()
    params = yaml.load(PROJECT / config.PARAMS)
    for section, values in config.read_yaml(OWN / config.PARAMS).items():
        if values:
            params[section].update(values)
        else:
            params[section].clear()
    with files.atomic(PROJECT / config.PARAMS) as unfinished:
        yaml.dump(params, unfinished)


def repro(*stages: str, lock: int | None = None) -> None:
    """Run stages of the copy, and what they need.

    Args:
        lock: the open file that runs.alone yielded; the stages keep it locked.

    Raises:
        ResourceError: a stage has failed.
    """
    command = ["dvc", "repro", *stages]
    kept_open = () if lock is None else (lock,)
    if subprocess.run(command, cwd=PROJECT, env=runs.environment(), pass_fds=kept_open).returncode:
        raise ResourceError(f"`{' '.join(command)}` failed in {PROJECT}; the lines above say why, mend it and go on")


def compared(method: str) -> list[Compared]:
    """Read the test questions with the answers of the base and of the method."""
    example_of = {row["example_id"]: row for row in tables.scan(_there(tables.EXAMPLES))}
    pairs = zip(*(tables.scan(_there(schema.predictions_of(name))) for name in (BASE, method)), strict=True)
    found = []
    for before, after in pairs:
        example = example_of[before["example_id"]]
        context = tuple(example["document_ids"])
        found.append(Compared(example["question"], example["answers"][0], context, before, after))
    return found


def _there(table: tables.Table) -> tables.Table:
    return table.at(PROJECT / table.path)


def _print_answers(method: str, found: list[Compared]) -> None:
    """Print the first question of each context, the number of right answers, and what can be done next."""
    labels = [METHODS[BASE].label, METHODS[method].label]
    width = max(map(len, ["reference", *labels]))
    first = {each.context: each for each in reversed(found)}
    for each in list(reversed(first.values()))[:SHOWN_QUESTIONS]:
        print(f"\n{each.question}\n  {'reference':{width}}  {each.reference}")
        for label, row in zip(labels, (each.before, each.after), strict=True):
            print(f"  {label:{width}}  {' '.join(row['prediction'].split()) or '(nothing)'}")
    right = [sum(int(row["exact_match"]) for row in rows) for rows in zip(*(each[3:] for each in found), strict=True)]
    print(
        f"\nexample: exact matches on {len(found)} test questions, over documents that the training has not seen: "
        f"{labels[0]} {right[0]}, {labels[1]} {right[1]}\n"
        f"The adapter is in {PROJECT / 'models' / method}, its settings are in {OWN / config.PARAMS}.\n"
        f'Next: make ask PROJECT={PROJECT} METHOD="{BASE} {method}" MOST=6 DOCUMENTS={OWN} QUESTION="...", or with a '
        "folder of your own (text, Markdown, PDF); docs/own-documents.md says how to train on it"
    )


if __name__ == "__main__":
    run(main)
