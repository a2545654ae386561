"""The base's tokenizer, without transformers: stages that only need token ids start in a fraction of a second."""

from pathlib import Path

from tokenizers import Tokenizer

from pipeline.common.base_card import BASE
from pipeline.runtime.errors import ArtifactError, one_line

_PROBES = (
    ' The 3rd of May, 1987: isn\'t it (really) "A & B" - 50% of $4.20?',
    "def f(x):\n    return x  # two blanks,\n\ttab\n",
    " Zoë's naïve café; Ångström, Łódź, Dvořák",
    " Москва, Αθήνα, 東京 🙂",
)


def load(folder: Path = BASE) -> Tokenizer:
    """Read the folder's tokenizer.json.

    Raises:
        ArtifactError: the file is missing or broken.
    """
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ArtifactError(f"{path}: cannot be read ({one_line(error)}); run `dvc repro -f base`") from None
    # `<mask>` or `</s>` inside a document is text and must never become a control token.
    tokenizer.encode_special_tokens = True
    return tokenizer


def require_lossless(folder: Path, name: str) -> None:
    """Check on a few texts that the folder's tokenizer decodes what it encoded; a blank at the beginning may be lost.

    Answers are trained as token ids and compared as decoded text, so that a tokenizer which lowers letters, joins
    blanks or knows no accents would grade another text than the model was taught.

    Raises:
        ArtifactError: a text comes back otherwise.
    """
    tokenizer = load(folder)
    for text in _PROBES:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if (decoded := tokenizer.decode(ids)).removeprefix(" ") != text.removeprefix(" "):
            raise ArtifactError(
                f"{name}: its tokenizer reads {text!r} and gives back {decoded!r}; choose a base whose tokenizer "
                "loses nothing, such as one with byte-level BPE or byte fallback"
            )
