"""The card of the base, models/base/base.json: the weights, tokenizer and special ids that all later stages rely on."""

from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.common import files
from pipeline.runtime.errors import ArtifactError

MODELS = Path("models")
BASE = MODELS / "base"
CARD = "base.json"


@dataclass(frozen=True)
class BaseCard:
    """The identity of the base."""

    source: str
    revision: str | None
    sha256: str
    """Digest of the safetensors files, in the order of their names."""
    vocab_size: int
    """Tokens of the tokenizer, <mask> and <pad> included."""
    tokenizer_sha256: str
    bos_id: int
    eos_id: int
    pad_id: int
    mask_id: int


def write_card(card: BaseCard, folder: Path) -> None:
    files.write_json(folder / CARD, asdict(card))


def read_card(folder: Path = BASE, stage: str = "base") -> BaseCard:
    """Read the card of the base, or of an adapter's base, which `stage` wrote."""
    values = files.read_json(folder / CARD, stage)
    try:
        return BaseCard(**values)
    except TypeError as error:
        raise ArtifactError(f"{folder / CARD}: {error}; run `dvc repro -f {stage}`") from None
