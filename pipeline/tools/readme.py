"""`make readme-results`: the results in README.md, written from reports/summary.json and reports/ablations.json alone.

`--check` writes nothing and fails with one line when the README says something else.
"""

import sys
from pathlib import Path

from pipeline.common import files
from pipeline.report import ablation_table
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.runtime.main import run
from pipeline.tools import readme_section

README, SUMMARY = Path("README.md"), Path("reports/summary.json")


def main() -> None:
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        raise ConfigError(f"readme_results takes no arguments but --check, got {' '.join(sys.argv[1:])}")
    record = files.read_json(SUMMARY, "report")
    grid = ablation_table.read()
    try:
        section = readme_section.section(record, grid)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{SUMMARY}: not a summary of this version ({type(error).__name__}: {error}); run `dvc repro -f report`"
        ) from None
    text = README.read_text(encoding="utf-8")
    wanted = readme_section.replaced(text, section)
    if wanted is None:
        raise ArtifactError(
            f"{README}: the results stand between `{readme_section.BEGIN}` and `{readme_section.END}`, each "
            "once and in this order; "
            "put the two marks back"
        )
    if check and wanted != text:
        raise ArtifactError(f"{README}: its results are not those of {SUMMARY}; run `make readme-results`")
    if wanted != text:
        files.write_text(README, wanted)
    print(f"readme-results: {README} {'already has' if wanted == text else 'now has'} the results of {SUMMARY}")


if __name__ == "__main__":
    run(main)
