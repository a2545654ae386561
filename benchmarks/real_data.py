"""A real benchmark from `prepare` to `report` in a copy of the project, with time and peak memory of each stage.

    python benchmarks/real_data.py FOLDER --benchmark quality [--report index.html] [--set section.key=value ...]

FOLDER holds samples of the official data under the names below. The base is the shipped small model: its answers are
poor, and its context is cut to 4,096 tokens; data, retrieval, masking and scoring are what the run shows. The checkout
itself is not touched.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ruamel.yaml import YAML

from tests.graph.project import Project

SMALL: dict[str, dict[str, Any]] = {
    "context": {"too_long": "cut_middle"},
    "train": {"steps": 8, "batch_examples": 4, "warmup_steps": 2},
    "analyze": {"examples": 8},
}
# Samples have one file with labels each, so documents of it are held out as dev and test.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "quality": {
        "data": {
            "files": {
                "train": [{"name": "quality/quality_leval_dev.jsonl"}],
                "dev": [],
                "test": [{"name": "quality/quality_example_text.jsonl"}],
            },
            "dev_fraction": 0.1,
            "test_fraction": 0.4,
        },
        "eval": {"longbench": True},
    },
    "qasper": {
        "data": {
            "files": {"train": [{"name": "qasper/qasper_pieces.json"}], "dev": [], "test": []},
            "dev_fraction": 0.1,
            "test_fraction": 0.5,
        },
        # The small tokenizer needs three tokens where Mistral's needs one: the cut to 4,096 loses most of the evidence.
        "gate": {"override": True},
        "eval": {"longbench": True, "max_new_tokens": 32},
    },
    "nq": {
        "data": {
            "files": {
                "train": [{"name": "nq/NQ-open.dev.jsonl"}],  # the 955 of its questions that are not asked in test
                "dev": [],
                "test": [{"name": "nq/nq-open-oracle.jsonl.gz"}],
            },
            "passages": [{"name": "text/2wikimultihopqa_corpus.json"}],
            "dev_fraction": 0.1,
            "num_documents": [10],
            "max_questions": 40,
        },
        # Most "gold" passages of this small collection hold the answer by chance, and no retriever finds those.
        "gate": {"override": True},
    },
    "hotpot": {
        "data": {
            "files": {"train": [{"name": "hotpotqa/hotpot_dev_distractor_sample.json"}], "dev": [], "test": []},
            "dev_fraction": 0.1,
            "test_fraction": 0.5,
        },
    },
    "longbench": {
        "data": {
            "files": {
                "train": [{"name": f"longbench_style/{name}.jsonl"} for name in ("hotpotqa", "musique", "2wikimqa")],
                "dev": [],
                "test": [],
            },
            "dev_fraction": 0.1,
            "test_fraction": 0.5,
        },
    },
    "squality": {
        "data": {
            "files": {
                "train": [{"name": "text/squality_v1-3_train.jsonl"}],
                "dev": [],
                "test": [{"name": "text/squality_v1-3_dev.jsonl"}],
            },
            "max_questions": 60,
        },
        "eval": {"max_new_tokens": 64},
    },
}


def measured(project: Project, stage: str) -> tuple[float, float]:
    """Wall seconds and peak MiB of one stage and what it starts. Raises SystemExit when it fails."""
    started = time.perf_counter()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["dvc", "repro", "--single-item", stage]
    child = os.fork()
    if child == 0:
        os.chdir(project.root)
        os.execvpe(command[0], command, environment)
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"stage {stage} failed, see above; the copy of the project stands in {project.root}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--benchmark", choices=SETTINGS, required=True)
    parser.add_argument("--report", type=Path, help="where to put the page")
    parser.add_argument("--results", type=Path, help="where to put the measured values as JSON")
    parser.add_argument("--until", help="the last stage to run")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="changes")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="real-data-"))
    (place / "project").mkdir()
    project = Project(place / "project")
    shutil.copy(Path(__file__).resolve().parents[1] / "params.yaml", project.root / "params.yaml")
    chosen = SETTINGS[arguments.benchmark]
    project.edit(SMALL)
    project.edit({"use": {"data": arguments.benchmark}, **chosen})
    project.edit({"data": {"source": str(arguments.folder.resolve())}})
    for change in arguments.changes:
        key, _, value = change.partition("=")
        section, _, name = key.partition(".")
        project.edit({section: {name: YAML(typ="safe").load(value)}})
    project.commit(arguments.benchmark)
    listed = project.run("dvc", "stage", "list", "--name-only").stdout.split()
    rows = []
    for stage in listed:
        rows.append((stage, *measured(project, stage)))
        if stage == arguments.until:
            break
    print(f"\n| stage ({arguments.benchmark}) | seconds | peak MiB |\n|---|---|---|")
    for stage, seconds, mebibytes in rows:
        print(f"| {stage} | {seconds:.1f} | {mebibytes:,.0f} |")
    if arguments.until is None:
        print(f"\n{(project.root / 'reports/table.md').read_text(encoding='utf-8')}")
        if arguments.report:
            shutil.copy(project.root / "reports/index.html", arguments.report)
        if arguments.results:
            names = ("prepare", "retrieval", "validation", "tokenize", "mask", "summary")
            values = {name: json.loads((project.root / f"reports/{name}.json").read_text()) for name in names}
            stages = {stage: {"seconds": seconds, "peak_mib": peak} for stage, seconds, peak in rows}
            arguments.results.write_text(json.dumps({"stages": stages, **values}, indent=1, sort_keys=True) + "\n")
    print(f"the copy of the project stands in {project.root}")


if __name__ == "__main__":
    main()
