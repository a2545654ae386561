"""The base's tokenizer, without transformers: stages that only need token ids start in a fraction of a second."""

from functools import lru_cache

from tokenizers import Tokenizer

from pipeline.common.base_card import BASE
from pipeline.runtime.errors import ArtifactError, one_line
from pipeline.views.full_view import Encode


def load() -> Tokenizer:
    """Read models/base/tokenizer.json.

    Raises:
        ArtifactError: the file is missing or broken.
    """
    path = BASE / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ArtifactError(f"{path}: cannot be read ({one_line(error)}); run `dvc repro -f base`") from None
    # `<mask>` or `</s>` inside a document is text and must never become a control token.
    tokenizer.encode_special_tokens = True
    return tokenizer


def encoder(tokenizer: Tokenizer) -> Encode:
    """Token ids of a text, remembered: a document of many contexts is tokenized once."""

    @lru_cache(maxsize=65_536)
    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return encode
