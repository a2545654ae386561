"""The shapes of the models that the settings name, from their config.json, before any weights are there."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import ArtifactError
from pipeline.runtime.settings import EncoderRetriever, Model
from pipeline.tools.plan import shapes
from pipeline.tools.plan.shapes import Shape

BYTES = {"float32": 4, "bfloat16": 2}


def base(model: Model) -> Shape:
    """Of the base, with the window that its settings give it.

    Raises:
        ArtifactError: its config.json is nowhere here, or tells no shape.
    """
    found = _config(model.source, model.revision, "model.source")
    return shapes.read({**found, "sliding_window": model.sliding_window}, BYTES[model.dtype], f"model {model.source}")


def encoder(retriever: EncoderRetriever) -> Shape:
    """Of a retriever that encodes texts; it scores in fp32. Raises ArtifactError as `base`."""
    found = _config(retriever.source, retriever.revision, "retriever.source")
    return shapes.read(found, 4, f"retriever {retriever.source}")


def _config(source: str, revision: str | None, setting: str) -> dict[str, Any]:
    """config.json of a folder, a Python package, the hub's cache, or of a model we know by name."""
    path = Path(source) / "config.json"
    if source.startswith("package:"):
        package, _, inside = source.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        places = spec.submodule_search_locations if spec else None
        path = Path(places[0]) / inside / "config.json" if places else path
    elif not path.is_file():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source, "config.json", revision=revision) if source.count("/") == 1 else None
        path = Path(cached) if isinstance(cached, str) else path
    if path.is_file():
        try:
            loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return loaded
        except ValueError as error:
            raise ArtifactError(f"{path}: not valid JSON ({error}); restore the file") from None
    if source in shapes.PUBLISHED:
        return shapes.PUBLISHED[source]
    raise ArtifactError(
        f"{setting} {source!r}: its config.json is neither in a folder of that name nor in the hub's cache; fetch the "
        f"model with `dvc repro base`, or put its config.json in a folder and set {setting} to that"
    )
