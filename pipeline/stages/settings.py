"""Stage settings: checks all settings before any other stage starts.

DVC removes the outputs of a stage before it runs it, so a stage that refuses a setting itself would have lost them. All
other stages stand behind this one; what it writes never changes, so that it makes none of them run.
"""

from pathlib import Path

from pipeline.common import files
from pipeline.runtime import config
from pipeline.runtime.main import run

CHECKED = Path("data/settings.txt")


def main() -> None:
    config.load()
    files.write_text(CHECKED, "checked\n")
    print("settings: all of them are known and in range")


if __name__ == "__main__":
    run(main)
