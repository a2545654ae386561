"""Any encoder of sentence-transformers, as its folder describes it: architecture, pooling, normalisation, prompts.

Texts are encoded by the library's own `encode_query` and `encode_document`, in batches of about one length. A batch is
padded to its longest text, so an embedding is the same but for rounding when other texts are encoded beside it.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipeline.common import pretrained
from pipeline.retrieval.checkpoint import as_artifact_error, read_json
from pipeline.retrieval.encoder import (
    POOLER,
    EncoderBatch,
    TextEncoder,
    What,
    check_max_tokens,
    quiet,
    require_vocabulary,
)
from pipeline.runtime.errors import ArtifactError

MODULES = "modules.json"
NAMES = {"questions": ("query",), "chunks": ("document", "passage", "corpus")}
"""Names of the prompts in config_sentence_transformers.json, in the order in which the library looks for them."""


class SentenceEncoder(TextEncoder):
    """A checked checkpoint and how its embeddings are made; the model is loaded when first needed."""

    def name(self, what: What) -> str:
        """Return everything that an embedding depends on, beside its text."""
        return f"{self.checkpoint.files_sha256} {self.settings.max_tokens} {what} {self._chosen(what)!r} {self.dtype}"

    @cached_property
    def network(self) -> Any:
        """Load the SentenceTransformer.

        Raises:
            ArtifactError: a file is broken or missing, lacks weights, needs code of its own, or reads no text.
            ConfigError: retriever.max_tokens is more than it can take.
        """
        from sentence_transformers import SentenceTransformer

        self._require_modules()
        quiet()
        logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
        with as_artifact_error(self.checkpoint.folder):
            network = SentenceTransformer(
                str(self.checkpoint.folder),
                device=str(self.device),
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"dtype": self.dtype, "ignore_mismatched_sizes": True},
            )
        if network.transformers_model is None or not callable(network.tokenizer):
            raise ArtifactError(
                f"retriever.source {self.checkpoint.source!r}: its first module {type(network[0]).__name__} has no "
                "tokenizer of transformers, so cut texts could not be counted; choose another encoder"
            )
        self._require_weights(network.transformers_model)
        num_embeddings = network.transformers_model.get_input_embeddings().num_embeddings
        require_vocabulary(network.tokenizer, num_embeddings, self.checkpoint)
        if limit := _max_tokens(network.transformers_model):
            check_max_tokens(self.settings, limit)
        network.max_seq_length = self.settings.max_tokens
        return network.to(self.dtype).eval()

    def _require_modules(self) -> None:
        """Check what the folder says of its modules: the library would guess without, and its errors name no file."""
        folder = self.checkpoint.folder
        if not (folder / MODULES).is_file():
            raise ArtifactError(
                f"retriever.source {self.checkpoint.source!r}: no {MODULES} in {folder}, so pooling and prompts are "
                "unknown; restore the file, or set kind: encoder with a pooling of your own"
            )
        for module in read_json(folder / MODULES):
            if str(module["type"]).endswith((".Pooling", ".Dense")):
                read_json(folder / module["path"] / "config.json")

    def _require_weights(self, network: Any) -> None:
        """Read the names of the weights once more, because the library does not tell which ones it drew at random."""
        with as_artifact_error(self.checkpoint.folder):
            _, loading_info = type(network).from_pretrained(
                network.name_or_path,
                device_map="meta",
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        pretrained.require_weights(loading_info, self.checkpoint.folder, unread=POOLER)

    def prompt(self, what: What) -> str:
        """Return the text before each question or chunk: that of the settings, else the folder's own, else none."""
        if (chosen := self._chosen(what)) is not None:
            return chosen
        prompts, names = self.network.prompts, (*NAMES[what], self.network.default_prompt_name)
        found: str = next((prompts[name] for name in names if name in prompts), "")
        return found

    def _chosen(self, what: What) -> str | None:
        chosen: str | None = self.settings.query_prompt if what == "questions" else self.settings.passage_prompt
        return chosen

    def _batches(self, texts: Sequence[str], what: What) -> Iterator[EncoderBatch]:
        prompt = self.prompt(what)
        ids = self.network.tokenizer([prompt + text for text in texts], verbose=False)["input_ids"] if texts else []
        lengths = [len(row) for row in ids]
        left = sorted(range(len(texts)), key=lambda index: -lengths[index])
        while left:
            longest = min(lengths[left[0]], self.settings.max_tokens)
            num = max(1, self.num_tokens // longest)
            chosen, left = left[:num], left[num:]
            inputs = (what, [texts[index] for index in chosen])
            yield EncoderBatch(chosen, [lengths[index] for index in chosen], inputs)

    def embed(self, batch: EncoderBatch) -> NDArray[np.float32]:
        """Return embedding_BD in float32, one row for each of the batch's B texts."""
        what, texts = batch.inputs
        encode = self.network.encode_query if what == "questions" else self.network.encode_document
        embeddings = encode(
            texts, prompt=self.prompt(what), batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False
        )
        embedding_BD: NDArray[np.float32] = embeddings.float().cpu().numpy()
        return embedding_BD


def _max_tokens(network: nn.Module) -> int | None:
    """Return the number of positions that the network knows; None: any number. RoBERTa's start behind pad_token_id."""
    config: Any = network.config
    limit: int | None = getattr(config, "max_position_embeddings", None)
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and limit:
            return limit - (0 if module.padding_idx is None else module.padding_idx + 1)
    return limit
