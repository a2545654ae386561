"""The methods: how the model was tuned, and how the report names and draws each. Add a method here first."""

from collections.abc import Collection, Sequence
from typing import Final, Literal, NamedTuple

from pipeline.runtime.errors import ConfigError, did_you_mean

BASE: Final = "base"
"""Not tuned."""
VANILLA: Final = "vanilla"
"""Tuned on the full views alone."""
FOCUSED: Final = "focused"
"""Tuned on both views (paper section 3)."""
GUIDED: Final = "guided"
"""Tuned on the full views: the base's answers over the best-scored chunks are taught, also to questions without labels,
and the retriever teaches where to look. Ours."""

Trained = Literal["vanilla", "focused", "guided"]
TRAINED: tuple[Trained, ...] = (VANILLA, FOCUSED, GUIDED)


class Method(NamedTuple):
    """How the report shows a method."""

    label: str
    """Its name in a sentence."""
    colour: str
    """#rrggbb of its curves and bars; readable on a light and on a dark page."""
    shape: str
    """Vega's name of the symbol at its points."""
    note: str = ""
    """A sentence below the table, for a method that is not the paper's."""


METHODS: dict[str, Method] = {  # Okabe and Ito's palette, darkened
    BASE: Method("the untuned base", "#767b82", "circle"),
    VANILLA: Method("vanilla fine-tuning", "#cb5a00", "square"),
    FOCUSED: Method("focused learning", "#1a7fc4", "triangle-up"),
    GUIDED: Method(
        "guided learning (ours)",
        "#7566d6",
        "diamond",
        "Guided (ours): the base answers over the best-scored chunks and teaches these answers to the model that reads "
        "all chunks, and the retriever teaches it where to look.",
    ),
}
"""In the order of every table and figure."""


def only(arguments: Sequence[str], stage: str, allowed: Collection[str] = tuple(METHODS)) -> str:
    """Return the one method that a stage's command line names. Raises ConfigError if it names none or another."""
    if len(arguments) == 1 and arguments[0] in allowed:
        return arguments[0]
    given = " ".join(arguments) or "none"
    hint = did_you_mean(given, allowed)
    raise ConfigError(f"{stage} takes one method, got {given}{hint}; choose from {', '.join(allowed)}")
