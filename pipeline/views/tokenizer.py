"""The base's tokenizer, without transformers: stages that only need token ids start in a fraction of a second."""

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from pipeline.runtime.errors import ArtifactError, one_line
from pipeline.views.full_view import Encode

FILE = Path("models/base/tokenizer.json")


class Base(NamedTuple):
    """What the stages without torch need of models/base."""

    tokenizer: Tokenizer
    tokenizer_sha256: str
    bos_id: int
    eos_id: int
    mask_id: int


def load() -> Base:
    """Read models/base.

    Raises:
        ArtifactError: a file is missing or broken.
    """
    try:
        card = json.loads(FILE.with_name("base.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(FILE))
    except Exception as error:  # tokenizers raises bare Exception
        raise ArtifactError(f"{FILE.parent}: cannot be read ({one_line(error)}); run `dvc repro -f base`") from None
    # `<mask>` or `</s>` inside a document is text and must never become a control token.
    tokenizer.encode_special_tokens = True
    return Base(tokenizer, card["tokenizer_sha256"], card["bos_id"], card["eos_id"], card["mask_id"])


def encoder(tokenizer: Tokenizer) -> Encode:
    """Token ids of a text, remembered: a document of many contexts is tokenized once."""

    @lru_cache(maxsize=65_536)
    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return encode
