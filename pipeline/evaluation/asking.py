"""What a method is asked: every input of every example, and the distinct prompts they need. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.views import full_view, masking, prompts, tasks

Ints = NDArray[np.int32]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """Token ids of a context (`prefix_ids`) and of the question behind it, and those of each option's answer."""

    prefix_ids: Ints
    suffix_ids: Ints
    options: tuple[tuple[int, ...], ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.prefix_ids) + len(self.suffix_ids)

    @property
    def key(self) -> tuple[bytes, bytes]:
        """Equal for equal prompts."""
        return self.prefix_ids.tobytes(), self.suffix_ids.tobytes()


class Ask(NamedTuple):
    """One example with one input."""

    example: Row
    input: str
    chunk_ids: list[str]
    """The chunks the model is given."""
    prompt: int
    """Which of the distinct prompts; inputs share one where no chunk is left out."""


class Asks:
    """Collects the asks of a run, and each distinct prompt once."""

    def __init__(
        self,
        chunk_of: Mapping[str, full_view.ContextChunk],
        top_k_of: Mapping[str, int],
        max_tokens: int,
        encode: full_view.Encode,
        bos_id: int,
    ) -> None:
        """`top_k_of`: for each input beside `full`, how many of the best-ranked chunks it gives."""
        self.asks: list[Ask] = []
        self.prompts: list[Prompt] = []
        self._place_of: dict[tuple[bytes, bytes], int] = {}
        self._chunk_of, self._top_k_of, self._max_tokens = chunk_of, top_k_of, max_tokens
        self._encode, self._bos_id = encode, bos_id

    def add(self, example: dict[str, Any], ranks_C: Ints) -> None:
        """Ask one example over its full view and over its best chunks, in context order.

        `example` has the columns of the full view and of the example. Retrieval lays its chunks out anew from the whole
        documents: what was cut from a full view too long for the model is there to be retrieved. Only a choice of
        chunks that is itself too long loses its middle.
        """
        ids = np.asarray(example.pop("input_ids"), dtype=np.int32)
        suffix_ids = ids[example["question_start"] : example["prompt_end"]]
        spans = zip(example["chunk_ids"], example["chunk_starts"], example["chunk_ends"], strict=True)
        left = [chunk_id for chunk_id, start, end in spans if start < end]
        self._ask(example, "full", left, ids[: example["question_start"]], suffix_ids)
        instruction = tasks.of(example["benchmark"]).instruction
        for name, top_k in self._top_k_of.items():
            kept = [example["chunk_ids"][index] for index in np.flatnonzero(masking.keep_top(ranks_C, top_k))]
            laid = full_view.context([self._chunk_of[name] for name in kept], instruction, self._encode, self._bos_id)
            fitting = full_view.cut(laid, self._max_tokens - len(suffix_ids), "middle")
            self._ask(example, name, kept, np.asarray(fitting.input_ids, dtype=np.int32), suffix_ids)

    def _ask(self, example: Row, name: str, chunk_ids: list[str], prefix_ids: Ints, suffix_ids: Ints) -> None:
        letters = prompts.LETTERS[: len(example["options"])]
        options = tuple(tuple(self._encode(prompts.answer_segment(letter))) for letter in letters)
        prompt = Prompt(prefix_ids, suffix_ids, options)
        place = self._place_of.setdefault(prompt.key, len(self.prompts))
        if place == len(self.prompts):
            self.prompts.append(prompt)
        self.asks.append(Ask(example, name, chunk_ids, place))
