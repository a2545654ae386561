"""The record of the ablation grid: each row's means over seeds and questions, its differences to the reference row."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pipeline.runtime.errors import ArtifactError


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Mean(_Record):
    """A figure and its 95 % interval; of a share from 0 to 1."""

    mean: float
    low: float
    high: float


class SeedMean(Mean):
    """Of one training; the interval is over questions."""

    seed: int


class Change(_Record):
    """A difference to the reference row on the same questions, and its 95 % interval."""

    difference: float
    low: float
    high: float


class ToReference(Change):
    """Of the score, tested, and what changes with it."""

    p_value: float
    p_corrected: float
    num_seeds: int
    """Of this row, as compared."""
    num_questions: int
    distraction_rate: Change
    slope: Change | None
    """Of what Row.slope says."""


class Row(_Record):
    """One line of the table."""

    name: str
    label: str
    group: str
    method: str
    input: str
    overrides: dict[str, Any]
    reference: str | None = None
    """Row that it is compared with, where that is not the table's own."""
    seeds: list[int]
    per_seed: list[SeedMean]
    pooled: Mean
    """Over seeds and questions."""
    distraction_rate: Mean
    slope: Mean | None
    """Change of the score from the gold document in the first place to the last, along the least-squares line; the
    interval is over questions. None: the places are unknown, or all one."""
    to_reference: ToReference | None


class Table(_Record):
    """reports/ablations.json. Without rows, the grid has not run yet."""

    benchmark: str | None = None
    min_documents: int | None = None
    num_documents: int | None = None
    """Of the longest contexts, at most; `min_documents` at least."""
    num_questions: int = 0
    """Asked there."""
    measure: str | None = None
    correction: Literal["holm"] = "holm"
    num_comparisons: int = 0
    reference: str = ""
    """Name of the row that the others are compared with, where they name none themselves."""
    claimed: list[str] = []
    """Names of the rows that the claims are about."""
    seconds: float = 0.0
    """Of all runs behind the table, together; of each its last attempt."""
    code: str = ""
    """The git commit whose code made the figures, with its date. Empty: unknown."""
    rows: list[Row]

    @model_validator(mode="after")
    def _is_measured(self) -> Self:
        if self.rows and (self.measure is None or self.num_documents is None):
            raise ValueError("there are rows, but no measure or no num_documents")
        return self

    def label_of(self, name: str | None) -> str:
        """Of the row with this name; None: of the table's reference."""
        name = name or self.reference
        return next((row.label for row in self.rows if row.name == name), name)


def parse(value: Any) -> Table:
    """The table from its JSON. Raises ArtifactError with the first place that is not as it should be."""
    try:
        return Table.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ArtifactError(f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
