"""What the results were made with, as far as it is no function of a stage's inputs: the commit and its tree."""

import subprocess

LEFT_OUT = (":!dvc.lock", ":!reports", ":!data", ":!models")
"""Of the tree: a run writes these itself."""


def commit() -> str:
    """The commit at hand and whether the tree is clean, in words."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD").strip()
        changed = _git("status", "--porcelain", "--", ".", *LEFT_OUT).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return "not under git, or no commit yet"
    if not changed:
        return f"commit {head}, the tree is clean"
    files = "1 file" if len(changed) == 1 else f"{len(changed)} files"
    return f"commit {head} and changes in {files} ({changed[0][3:]}{', …' if len(changed) > 1 else ''})"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, encoding="utf-8", check=True)
    return done.stdout
