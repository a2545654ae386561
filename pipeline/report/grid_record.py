"""reports/ablations.json: `make ablations` writes the figures of the grid, the report and the README read them."""

import json
from pathlib import Path

from pipeline.report import ablation_table
from pipeline.runtime.errors import ArtifactError

RECORD = Path("reports/ablations.json")  # in git


def read() -> ablation_table.Table:
    """Raises ArtifactError when the file is missing, or is no ablation table of this version."""
    try:
        return ablation_table.parse(json.loads(RECORD.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, ArtifactError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else f"not an ablation table ({error})"
        raise ArtifactError(f"{RECORD}: {what}; run `git checkout {RECORD}` or `make ablations`") from None
