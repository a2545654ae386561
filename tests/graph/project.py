"""A copy of the project at toy size, in which DVC really runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.conftest import ROOT

TOY: dict[str, dict[str, Any]] = {
    "data": {
        "train_questions": 24, "dev_questions": 4, "test_questions": 8,
        "train_documents": [4], "dev_documents": [4], "test_documents": [4, 6], "unlabelled_questions": 8,
        "surface_questions": 2, "surface_documents": [2, 4], "surface_name_sharing_rates": [0.0, 1.0],
    },
    "validation": {"max_examples": 8},
    "mask": {"top_k": 2},
    "teach": {"top_k": 2},
    "distill": {"batch_questions": 4},
    "train": {"steps": 3, "batch_examples": 4, "log_every": 1},
    "eval": {"retrieval_top_k": 2, "max_new_tokens": 6, "bootstrap_resamples": 100},
    "analyze": {"examples": 4},
}  # fmt: skip


RECORDS = ("reports/ablations.json", "reports/laptop.json", "reports/map.json")  # in git, written by no stage


class Project:
    """Commands in the copy; each returns what it printed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in listed.stdout.decode().split("\0"):
            made = name == "dvc.lock" or (name.startswith("reports/") and name not in RECORDS)
            if name and not made and (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, root / name)
        self.edit(TOY)
        self.run("git", "init", "--quiet")
        self.commit("toy")

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FOCUS_CACHE": str(self.root.parent / "embeddings"),
            "GIT_AUTHOR_NAME": "toy", "GIT_AUTHOR_EMAIL": "toy@localhost",
            "GIT_COMMITTER_NAME": "toy", "GIT_COMMITTER_EMAIL": "toy@localhost",
        }  # fmt: skip

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def edit(self, changes: dict[str, dict[str, Any]], file: str = "params.yaml") -> None:
        """Set keys in a YAML file, comments kept."""
        yaml = YAML()
        loaded = yaml.load((self.root / file).read_text())
        for section, values in changes.items():
            loaded[section].update(values)
        with (self.root / file).open("w") as opened:
            yaml.dump(loaded, opened)

    def repro(self, *command: str) -> list[str]:
        """`dvc repro`, or another command that runs stages; the names of the stages that were executed."""
        done = self.run(*(command or ("dvc", "repro")))
        return re.findall(r"Running stage '([\w@]+)'", done.stdout)
