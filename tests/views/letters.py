"""A tokenizer whose tokens are bytes, with blanks that belong to the word behind them as in GPT-2's."""

import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.common.base_card import BaseCard

PAD, BOS, EOS, MASK, START, END = range(6)
CONTROLS = ["<pad>", "<s>", "</s>", "<mask>", "<|im_start|>", "<|im_end|>"]
CARD = BaseCard("letters", None, "", 0, "", BOS, [EOS], PAD, MASK)
TEXTS = [
    "Ada was born in London. Bob was not.",
    "\n\nDocument: \n\nQuestion: Who?\nAnswer:",
    " 1815 1815  .\n\n",
    "”,“",
]


def tokenizer() -> Tokenizer:
    """Bytes, and what a trainer joins of them: words with their blank, runs of white space, a stop and its line end."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=CONTROLS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS * 9, trainer)
    made.encode_special_tokens = True
    return made


def sentencepiece(scheme: str) -> Tokenizer:
    """As Llama's and Mistral's: words with a mark in place of the blank, no other borders, line ends as bytes.

    `scheme` says where a mark is put that stands for no blank: `always` before each stretch of text, `first`, `never`.
    """
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    of_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=[*CONTROLS, "<unk>", *of_bytes], show_progress=False)
    made.train_from_iterator([word for text in TEXTS for word in text.split()], trainer)
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    content = json.loads(made.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in of_bytes]
    made = Tokenizer.from_str(json.dumps(content))
    made.encode_special_tokens = True
    return made


def merges() -> list[list[str]]:
    """The pairs of pieces that the tokenizer joins, in their order."""
    found: list[list[str]] = json.loads(tokenizer().to_str())["model"]["merges"]
    return found
