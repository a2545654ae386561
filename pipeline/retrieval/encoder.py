"""An encoder of the BERT family, Contriever and its relatives: texts in, embeddings out.

Embeddings are those of facebookresearch/contriever @39fb2201 (src/contriever.py). Texts stand one behind the other in a
sequence of a fixed number of tokens, without padding between them, and each attends to itself alone. So no shape
depends on what texts are encoded together: a text's embedding is the same to the last bit whatever is beside it, and a
half-filled cache gives the scores of an empty one.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain, groupby, pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.common import pretrained
from pipeline.retrieval import checkpoint
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.runtime.settings import DenseRetriever, EncoderRetriever

# T tokens of a sequence, H heads, E dimensions of a head, D dimensions of an embedding

SEQUENCE_TOKENS = {"cpu": 1024, "cuda": 65_536, "mps": 8192}
"""Tokens that go through the network at a time: few enough for the caches of a CPU, many enough for a GPU."""
POOLER = "pooler."
"""Begins the names of weights that no embedding depends on; some checkpoints lack them."""
_PROBE = "a one The 12 é я 了 の"
TEXTS_PER_SLAB = 8192  # texts that are tokenized at a time: it bounds memory

Run = tuple[int, int, int]
"""Neighbours in a sequence that have one length: their first token, their end, and their number."""
What = Literal["questions", "chunks"]
"""Kind of the texts that are encoded; some encoders are told by a prompt."""


class EncoderBatch(NamedTuple):
    """Texts that are encoded together."""

    indices: list[int]
    """Indices of the texts among those that were batched."""
    lengths: list[int]
    """Tokens of each text before it was truncated, special tokens included."""
    inputs: Any
    """Input of `embed`: token ids of each text, or texts."""


def check_max_tokens(settings: DenseRetriever, limit: int) -> None:
    """Raise ConfigError when retriever.max_tokens is more than the encoder's limit."""
    if settings.max_tokens > limit:
        raise ConfigError(
            f"retriever.max_tokens is {settings.max_tokens}, but {settings.source} takes at most {limit}; lower it"
        )


def load_network(found: checkpoint.Checkpoint, settings: EncoderRetriever, on: torch.device, dtype: torch.dtype) -> Any:
    """Load the network in evaluation mode. The weights of its pooler may be missing, because none of it is read.

    Raises:
        ArtifactError: a file is broken, weights are missing, or it is no BERT.
        ConfigError: retriever.max_tokens is more than it can take.
    """
    from transformers import AttentionInterface, AutoConfig, AutoModel

    quiet()
    AttentionInterface.register("each_text_to_itself", attend)
    weights = checkpoint.safetensors_folder(found)
    with checkpoint.as_artifact_error(found.folder):
        config: Any = AutoConfig.from_pretrained(found.folder, trust_remote_code=False, local_files_only=True)
    if config.model_type != "bert":
        raise ArtifactError(
            f"retriever.source {found.source!r}: model_type is {config.model_type!r}, and kind encoder reads BERT "
            "alone (Contriever, MiniLM); choose kind sentence_transformer for it, as conf/retriever/e5.yaml does"
        )
    check_max_tokens(settings, config.max_position_embeddings)
    with checkpoint.as_artifact_error(found.folder):
        network, loading_info = AutoModel.from_pretrained(
            weights,
            config=config,
            attn_implementation="each_text_to_itself",
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    pretrained.require_weights(loading_info, weights, unread=POOLER)
    return network.to(on).eval()


def require_vocabulary(tokenizer: Any, num_embeddings: int, found: checkpoint.Checkpoint) -> None:
    """Check that the tokenizer knows words, and has no token without an embedding.

    Where its files are missing, transformers makes one for some models that knows none.

    Raises:
        ArtifactError: it knows no word, or too many.
    """
    if set(tokenizer(_PROBE)["input_ids"]) <= set(tokenizer.all_special_ids):
        raise ArtifactError(
            f"{found.folder}: its tokenizer knows no word; restore tokenizer.json or the vocabulary's file"
        )
    if len(tokenizer) > num_embeddings:
        raise ArtifactError(
            f"{found.folder}: its tokenizer has {len(tokenizer):,} tokens, and its network embeddings of "
            f"{num_embeddings:,}; restore the files that belong together"
        )


def quiet() -> None:
    """Keep transformers from warning and from showing its progress."""
    from transformers.utils import logging

    untyped: Any = logging
    untyped.set_verbosity_error()
    untyped.disable_progress_bar()


def attend(
    _layer: Any, query_1HTE: Tensor, key_1HTE: Tensor, value_1HTE: Tensor, _mask: None, *, runs: list[Run], **_: Any
) -> tuple[Tensor, None]:
    """Return the attention, (1, T, H, E), of each text to itself; an attention function of transformers.

    Texts of one run are attended to in one call.
    """
    attended_1THE = torch.zeros_like(query_1HTE.transpose(1, 2))
    for start, end, num in runs:
        query, key, value = (
            part_1HTE[0, :, start:end].view(part_1HTE.shape[1], num, -1, part_1HTE.shape[3]).transpose(0, 1)
            for part_1HTE in (query_1HTE, key_1HTE, value_1HTE)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        attended_1THE[0, start:end] = attended.transpose(1, 2).flatten(0, 1)
    return attended_1THE, None


def number_format(on: torch.device) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it, else float32, because emulated bfloat16 is far slower."""
    if on.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able: dict[str, Any] = dict(torch.cpu.get_capabilities())
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def truncate(ids: list[int], max_tokens: int) -> list[int]:
    """Shorten to at most `max_tokens` ids, the last one still [SEP]."""
    return ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]


def filled(lengths: Sequence[int], num_tokens: int) -> Iterator[list[int]]:
    """Distribute texts over sequences of `num_tokens`, none longer: the longest ones first, and the shortest ones into
    what these leave. Yield the indices of each sequence, longest text first."""
    left = deque(sorted(range(len(lengths)), key=lambda index: -lengths[index]))
    while left:
        longest, shortest = [], []
        room = num_tokens
        while left and lengths[left[0]] <= room:
            longest.append(left.popleft())
            room -= lengths[longest[-1]]
        while left and lengths[left[-1]] <= room:
            shortest.append(left.pop())
            room -= lengths[shortest[-1]]
        yield [*longest, *reversed(shortest)]


class TextEncoder:
    """A checked checkpoint and how its embeddings are made; tokenizer and network are loaded when first needed."""

    def __init__(self, settings: DenseRetriever, on: torch.device) -> None:
        """Find the checkpoint. Raises what `checkpoint.find` raises."""
        self.checkpoint = checkpoint.find(settings)
        self.device, self.dtype = on, number_format(on)
        self.settings: Any = settings  # of the class that the kind has
        self.num_tokens = max(SEQUENCE_TOKENS[on.type], settings.max_tokens)

    def name(self, what: What) -> str:
        """Return everything that an embedding depends on, beside its text."""
        settings = self.settings
        return f"{self.checkpoint.files_sha256} {settings.max_tokens} {settings.pooling} {self.dtype} unpadded"

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what a process loads for itself."""
        return {name: value for name, value in self.__dict__.items() if name not in ("network", "tokenizer")}

    @cached_property
    def network(self) -> Any:
        return load_network(self.checkpoint, self.settings, self.device, self.dtype)

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoConfig, AutoTokenizer  # takes seconds to import, and a full cache needs none

        quiet()
        folder, local = self.checkpoint.folder, {"trust_remote_code": False, "local_files_only": True}
        with checkpoint.as_artifact_error(folder):
            tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            config: Any = AutoConfig.from_pretrained(folder, **local)
        require_vocabulary(tokenizer, config.vocab_size, self.checkpoint)
        return tokenizer

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text between [CLS] and [SEP], not truncated."""
        return list(self.tokenizer(list(texts), add_special_tokens=True, verbose=False)["input_ids"]) if texts else []

    def batches(self, texts: Sequence[str], what: What) -> Iterator[EncoderBatch]:
        """Tokenize the texts and group them into batches, TEXTS_PER_SLAB texts at a time."""
        for start in range(0, len(texts), TEXTS_PER_SLAB):
            for batch in self._batches(texts[start : start + TEXTS_PER_SLAB], what):
                yield batch._replace(indices=[start + index for index in batch.indices])

    def _batches(self, texts: Sequence[str], what: What) -> Iterator[EncoderBatch]:
        ids = self.tokenize(texts)
        truncated = [truncate(row, self.settings.max_tokens) for row in ids]
        for indices in filled([len(row) for row in truncated], self.num_tokens):
            yield EncoderBatch(indices, [len(ids[index]) for index in indices], [truncated[index] for index in indices])

    @torch.inference_mode()
    def embed(self, batch: EncoderBatch) -> NDArray[np.float32]:
        """Return embedding_BD in float32, one row for each of the batch's B texts: the state of its first token, or the
        mean over all its tokens."""
        ends = list(accumulate(len(ids) for ids in batch.inputs))
        ids_1T = torch.zeros((1, self.num_tokens), dtype=torch.long)
        positions_1T = torch.zeros_like(ids_1T)
        ids_1T[0, : ends[-1]] = torch.tensor(list(chain(*batch.inputs)))
        positions_1T[0, : ends[-1]] = torch.cat([torch.arange(len(ids)) for ids in batch.inputs])
        spans = list(pairwise([0, *ends]))
        # A GPU attends to texts of one length at once. A CPU gains nothing by that, and rounds by the number of texts.
        alike = groupby(spans, lambda span: span if self.device.type == "cpu" else span[1] - span[0])
        runs = [(run[0][0], run[-1][1], len(run)) for run in (list(group) for _, group in alike)]
        hidden_1TD = self.network(
            input_ids=ids_1T.to(self.device), position_ids=positions_1T.to(self.device), runs=runs
        ).last_hidden_state
        states = [hidden_1TD[0, start:end].float() for start, end in spans]
        pooled = [state_LD[0] if self.settings.pooling == "cls" else state_LD.mean(dim=0) for state_LD in states]
        embedding_BD: NDArray[np.float32] = torch.stack(pooled).cpu().numpy()
        return embedding_BD
