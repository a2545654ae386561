"""Stage base: the tokenizer with <mask> and <pad>, and the card that names the base weights by digest."""

import hashlib

from transformers import AutoTokenizer

from pipeline.common import base_card, files
from pipeline.model import loading
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, one_line
from pipeline.runtime.main import run


def main() -> None:
    settings = config.load("base").model
    folder = loading.find_base(settings)
    digest = loading.digest(folder)
    if settings.sha256 is not None and settings.sha256 != digest:
        raise ArtifactError(
            f"{folder}: weights have sha256 {digest}, the bundle pins {settings.sha256}; restore the weights, or set "
            "model.sha256 to null if you mean to use these"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise a dozen kinds, some of them bare
        raise ArtifactError(f"{folder}: its tokenizer cannot load ({one_line(error)}); restore its files") from None
    # Beside eos: with pad = eos the end of an answer would never be learned.
    tokenizer.add_special_tokens({"pad_token": "<pad>", "mask_token": "<mask>"})
    with files.workspace("base", base_card.MODELS) as workspace:
        base = workspace / "base"
        tokenizer.save_pretrained(base)
        if not (base / "tokenizer.json").is_file():
            raise ArtifactError(f"{folder}: its tokenizer has no tokenizer.json form, which the pipeline needs")
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise ArtifactError(f"{folder}: its tokenizer names no bos or no eos token; the prompts need both")
        card = base_card.BaseCard(
            source=settings.source,
            revision=settings.revision,
            sha256=digest,
            vocab_size=len(tokenizer),
            tokenizer_sha256=hashlib.sha256((base / "tokenizer.json").read_bytes()).hexdigest(),
            bos_id=tokenizer.bos_token_id,
            eos_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
            mask_id=tokenizer.mask_token_id,
        )
        base_card.write_card(card, base)
        files.put(base, base_card.BASE)
    print(f"base: {settings.source}, {card.vocab_size:,} tokens, <mask> is {card.mask_id}, weights {digest[:12]}")


if __name__ == "__main__":
    run(main)
