"""Files of pretrained models: what the hub does not give, and what a checkpoint lacks, is one line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import ArtifactError, one_line


@contextmanager
def from_hub(missing: str, revision: str | None, remedy: str) -> Iterator[None]:
    """Turn what the hub's client raises into one line.

    Args:
        missing: what is not on this machine, to begin the line.
        remedy: what to do next, to end it.
    """
    try:
        yield
    except Exception as error:  # the client raises a dozen kinds, those of its HTTP library among them
        raise ArtifactError(
            f"{missing}, and the hub gave nothing at revision {revision or 'main'} ({one_line(error)}); {remedy}"
        ) from None


def require_weights(loading_info: Mapping[str, Any], folder: Path, unread: str = "") -> None:
    """Check that no weight was drawn at random, as transformers does where a file lacks one.

    Args:
        loading_info: as from_pretrained gives it with output_loading_info.
        unread: begins the names of weights that may be missing, because nothing reads them; empty: none may.

    Raises:
        ArtifactError: weights are missing or of another shape.
    """
    wrong = loading_info["missing_keys"] | {name for name, *_ in loading_info["mismatched_keys"]}
    if wrong := {name for name in wrong if not (unread and name.startswith(unread))}:
        raise ArtifactError(
            f"{folder}: {len(wrong):,} weights that config.json describes are missing or of another shape, first "
            f"{min(wrong)}; restore the files"
        )
