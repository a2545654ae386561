"""The card of the base, models/base/base.json: the weights, tokenizer and special ids that all later stages rely on."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.common import files
from pipeline.runtime.errors import ArtifactError

MODELS = Path("models")
BASE = MODELS / "base"
CARD = "base.json"


@dataclass(frozen=True)
class BaseCard:
    """The identity of the base."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)  # where it is read

    source: str
    revision: str | None
    sha256: str
    """Digest of the safetensors files, in the order of their names."""
    vocab_size: int
    """Tokens of the tokenizer, <mask> and <pad> included."""
    tokenizer_sha256: str
    bos_id: int | None
    """None: texts of this model begin without one."""
    eos_ids: Annotated[list[int], Field(min_length=1)]
    """Tokens that end an answer; the first is the one that answers are trained with."""
    pad_id: int
    mask_id: int
    sliding_window: int | None = None
    """Smallest attention window of any layer, in tokens; None: every layer sees all tokens."""
    chat_head: str | None = None
    """What the chat template writes before the instruction, BOS included; None: prompts are plain."""
    chat_turn: str | None = None
    """What it writes between question and answer."""
    gguf_sha256: str | None = None
    """Digest of the GGUF file that the weights in models/base were made of; None: the source has safetensors files."""

    @property
    def eos_id(self) -> int:
        """The token that answers are trained to end with."""
        return self.eos_ids[0]


def write_card(card: BaseCard, folder: Path) -> None:
    files.write_json(folder / CARD, asdict(card))


def read_card(folder: Path = BASE, stage: str = "base") -> BaseCard:
    """Read the card of the base, or of an adapter's base, which `stage` wrote."""
    values = files.read_json(folder / CARD, stage)
    try:
        return TypeAdapter(BaseCard).validate_json(json.dumps(values))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ArtifactError(f"{folder / CARD}: {wrong}; run `dvc repro -f {stage}`") from None
