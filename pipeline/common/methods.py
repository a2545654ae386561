"""The methods by name: how the model was tuned."""

from typing import Final, Literal

BASE: Final = "base"
"""Not at all."""
VANILLA: Final = "vanilla"
"""By the full views alone."""
FOCUSED: Final = "focused"
"""By both views (paper section 3)."""
DISTILL: Final = "distill"
"""By the full views, and by what the base answers over the best-scored chunks of questions that need no label. Ours."""

Trained = Literal["vanilla", "focused", "distill"]
TRAINED: tuple[Trained, ...] = (VANILLA, FOCUSED, DISTILL)
METHODS = (BASE, *TRAINED)
