"""Stage base: the tokenizer with <mask> and <pad>, and the card that names the base weights by digest.

A base that later stages could not train, mask or read answers of is refused here, before anything is computed. Of a
GGUF file, the weights themselves lie beside the tokenizer.
"""

import hashlib
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig

from pipeline.common import base_card, files
from pipeline.common.chunks import Chunk
from pipeline.model import causal_lm, chat_template, gguf, loading, lora
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, one_line
from pipeline.runtime.main import run
from pipeline.views import layout, prompts, tokenizer


def main() -> None:
    settings = config.load("base").model
    found_at = gguf.find(settings) if settings.is_gguf else loading.find_base(settings)
    gguf_sha256 = gguf.sha256(found_at) if settings.is_gguf else None
    with files.workspace("base", base_card.MODELS) as workspace:
        base = workspace / "base"
        if settings.is_gguf:
            gguf.convert(found_at, settings.dtype, base)
        folder = base if settings.is_gguf else found_at
        digest = loading.digest(folder)
        if not settings.is_gguf and settings.sha256 not in (None, digest):
            raise ArtifactError(
                f"{folder}: weights have sha256 {digest}, model.sha256 is {settings.sha256}; restore the weights, or "
                "set model.sha256 to null if you mean to use these"
            )
        model_config = loading.configuration(folder, settings)
        windows = causal_lm.windows(model_config)
        own = causal_lm.windows(loading.configuration(folder, settings.model_copy(update={"sliding_window": "own"})))
        network: Any = loading.skeleton(model_config)
        warning = causal_lm.length_warning(model_config, settings.max_tokens)
        found, num_rows = lora.parts(network), network.get_input_embeddings().weight.shape[0]
        # PEFT refuses some models too.
        lora.add_adapter(network, rank=1, alpha=1, dropout=0.0, embedding="lora", norms=True, mask_id=0)
        if getattr(model_config, "quantization_config", None) is None:  # else it may need the GPU of later stages
            loading.load(folder, config=model_config, device_map="meta")  # refuses missing weights
        try:
            of_transformers = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # transformers and tokenizers raise a dozen kinds, some of them bare
            raise ArtifactError(f"{folder}: its tokenizer cannot load ({one_line(error)}); restore its files") from None
        _require_rows(of_transformers, num_rows, folder)
        # Beside eos: with pad = eos the end of an answer would never be learned.
        of_transformers.add_special_tokens({"pad_token": "<pad>", "mask_token": "<mask>"})
        of_transformers.save_pretrained(base)
        if not (base / "tokenizer.json").is_file():
            raise ArtifactError(f"{folder}: its tokenizer has no tokenizer.json form, which the pipeline needs")
        tokenizer.require_lossless(base, settings.source if settings.is_gguf else str(folder))
        frame = None
        if settings.prompt == "chat":
            frame = chat_template.frame(of_transformers, settings.source, settings.chat_template_kwargs)
        card = base_card.BaseCard(
            source=settings.source,
            revision=settings.revision,
            sha256=digest,
            vocab_size=len(of_transformers),
            tokenizer_sha256=hashlib.sha256((base / "tokenizer.json").read_bytes()).hexdigest(),
            bos_id=of_transformers.bos_token_id,
            eos_ids=_eos_ids(of_transformers, model_config, folder, frame),
            pad_id=of_transformers.pad_token_id,
            mask_id=of_transformers.mask_token_id,
            sliding_window=min((window for window in windows.values() if window is not None), default=None),
            chat_head=None if frame is None else frame.head,
            chat_turn=None if frame is None else frame.turn,
            gguf_sha256=gguf_sha256,
        )
        if frame is not None:
            _require_whole(of_transformers, card, settings.chat_template_kwargs, base)
        base_card.write_card(card, base)
        files.put(base, base_card.BASE)
    changed = f"; attention windows are {_listed(windows)} instead of the model's own {_listed(own)}"
    print(
        f"base: {settings.source}, {card.vocab_size:,} tokens, <mask> is {card.mask_id}, weights {digest[:12]}; "
        f"trainable are {len(found.attention)} projections of attention ({', '.join(found.projections)}), "
        f"{len(found.norms)} norms and {found.embedding}"
        + (changed if windows != own else "")
        + ("" if frame is None else f"; chat prompts begin with {frame.head!r}")
        + (warning and f"; {warning}")
    )


def _listed(windows: dict[str, int | None]) -> str:
    return " and ".join("all tokens" if window is None else f"{window:,} tokens" for window in windows.values())


def _require_rows(of_transformers: Any, num_rows: int, folder: Path) -> None:
    """Check that the embedding has a row for each of the tokenizer's ids, before <pad> and <mask> are added.

    A control token may be without one, as in Gemma 3, whose models of text share the tokenizer of its models of images.

    Raises:
        ArtifactError: words of the vocabulary have none.
    """
    control = {number for number, token in of_transformers.added_tokens_decoder.items() if token.special}
    if strangers := [number for number in set(of_transformers.get_vocab().values()) - control if number >= num_rows]:
        raise ArtifactError(
            f"{folder}: its tokenizer has ids up to {max(strangers):,}, and its embedding rows for {num_rows:,}; "
            "tokenizer and weights are of different models: restore the files that belong together"
        )


def _eos_ids(of_transformers: Any, model_config: Any, folder: Path, frame: chat_template.Frame | None) -> list[int]:
    """List the tokens that end an answer: the template's end of turn or the tokenizer's EOS, then all other stops.

    Raises:
        ArtifactError: there is none, or generation_config.json is broken.
    """
    stops: list[Any] = [of_transformers.eos_token_id, model_config.eos_token_id]
    if frame is not None:
        stops.insert(0, frame.end_id)
    if (folder / "generation_config.json").is_file():
        try:
            stops.append(GenerationConfig.from_pretrained(folder).eos_token_id)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{folder}: generation_config.json is broken ({one_line(error)}); restore it") from None
    ids = [token for stop in stops if stop is not None for token in (stop if isinstance(stop, list) else [stop])]
    if strangers := [token for token in ids if type(token) is not int]:
        raise ArtifactError(
            f"{folder}: generation_config.json has {strangers[0]!r} as eos_token_id; expected a token's number, or a "
            "list of numbers"
        )
    if not ids:
        raise ArtifactError(
            f"{folder}: neither its tokenizer nor generation_config.json names an EOS token, so no answer could end; "
            "set eos_token in its tokenizer_config.json"
        )
    return list(dict.fromkeys(ids))


def _require_whole(
    of_transformers: Any, card: base_card.BaseCard, template_kwargs: dict[str, str | int | bool], folder: Path
) -> None:
    """Check that a prompt, which is tokenized in parts, has the ids that transformers gives the whole conversation.

    Raises:
        ArtifactError: it has others.
    """
    chunks = [
        Chunk("a#0", "a", "Ada", "Born in 1815.\n\n"),
        Chunk("a#1", "a", "Ada", "She wrote “notes”, in London."),
        Chunk("b#0", "b", "", "Nothing else  is known?"),
    ]
    texts = ["Document (Title: Ada): ", *(chunk.text for chunk in chunks[:2]), f"\nDocument: {chunks[2].text}\n"]
    asked = f"{prompts.instruction_segment('Answer.')}{''.join(texts)}{prompts.question_segment('When was she born?')}"
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": "In 1815"}]
    whole = of_transformers.apply_chat_template(messages, return_dict=False, **template_kwargs)
    writes = layout.Layout(tokenizer.load(folder), card)
    laid = writes.context(chunks, "Answer.")
    ids = [*laid.input_ids, *writes.question("When was she born?", ""), *writes.answer("In 1815")]
    if ids != whole[: len(ids)]:
        raise ArtifactError(
            f"{card.source}: its chat template or tokenizer gives a conversation other tokens than its parts, so that "
            "no chunk has tokens of its own; set model.prompt to plain"
        )


if __name__ == "__main__":
    run(main)
