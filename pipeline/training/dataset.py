"""The training examples of each step as micro-batches, for one process or several.

`TrainingDataset` reads the examples with labels, `DistillationDataset` the teacher's answers. Both hold only the rows
that some step uses, their tokens in a file that is mapped into memory.
"""

# B examples of the step, b those of this process, E those of a micro-batch, L tokens, N label tokens, K teacher tokens,
# C chunks

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, zip_longest
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pipeline.common import tables
from pipeline.common.chunks import Scratch
from pipeline.model import collator
from pipeline.model.collator import NO_CHUNK, Ints, ModelInputs, TokenRow
from pipeline.runtime.errors import ArtifactError
from pipeline.training.attention import AttentionTarget

TRAIN_SPLITS = ("train",)
DISTILL_SPLITS = ("train", "unlabelled")


class MicroBatch(NamedTuple):
    """The rows of one forward."""

    inputs: ModelInputs
    places_E: Tensor
    """Place of each example among those of this process; + b where it is the example's masked view."""
    idle: bool = False
    """Computed to keep step with the other processes, but not counted."""

    def to(self, device: torch.device) -> "MicroBatch":
        return MicroBatch(self.inputs.to(device), self.places_E.to(device), self.idle)


class StepBatch(NamedTuple):
    """The micro-batches of one step on one process, and the counts of all processes that normalise the losses."""

    micro_batches: Sequence[MicroBatch]
    """Empty when no label is used."""
    num_own: int
    """b."""
    num_labels_full: int
    """Label tokens of all full views of the step, over all processes; `num_labels_masked` likewise."""
    num_labels_masked: int
    same_document_BB: Tensor | None
    """True for two examples over one context, never on the diagonal; None when there are none."""
    distill: Sequence[MicroBatch] = ()
    """Views with the teacher's distribution as target; their places mean nothing."""
    num_labels_distill: int = 0
    """Label tokens of these in the step, over all processes."""
    num_full_views: int = 0
    """Full views of the step, with labels and for distillation, over all processes."""

    def to(self, device: torch.device) -> "StepBatch":
        return self._replace(
            micro_batches=[micro_batch.to(device) for micro_batch in self.micro_batches],
            same_document_BB=None if self.same_document_BB is None else self.same_document_BB.to(device),
            distill=[micro_batch.to(device) for micro_batch in self.distill],
        )


_PlacedRow = tuple[TokenRow, list[int]]
"""A row, and the places of its examples among those of its process."""


class TrainingDataset:
    """The examples with labels, and beside them the distillation examples."""

    def __init__(
        self,
        batch_indices: Sequence[Sequence[int]],
        full: tables.Table,
        masked: tables.Table | None,
        distill: "DistillationDataset | None" = None,
        shuffle_seed: int | None = None,
        masked_first: bool = False,
        target: AttentionTarget | None = None,
        together: bool = False,
    ) -> None:
        """Read the views of all examples that `batch_indices` names.

        Args:
            batch_indices: the examples of each step, as places in split train.
            full, masked: the tables of views; no `masked`: the masked views are not used.
            shuffle_seed: at each step, the documents of a full view are put in another random order; None: as given.
            masked_first: masked views go through forwards of their own, before those of the full views.
            target: the attention that the full views' chunks should get; None: it is not taught.
            together: as in `context_keys`, for the pairs that the contrastive loss can leave out.

        Raises:
            ArtifactError: a table is missing or damaged, or the two are not of the same examples.
        """
        self.batch_indices = batch_indices
        self._distill, self._shuffle_seed, self._masked_first = distill, shuffle_seed, masked_first
        examples = _examples(full, TRAIN_SPLITS)
        self._keys = context_keys(full, together=together)
        used = sorted({index for batch in batch_indices for index in batch})
        rows, example_ids = ([examples[name][index] for index in used] for name in ("row", "example_id"))
        self.example_ids = dict(zip(used, example_ids, strict=True))
        self._num_shared: dict[int, int] = {}
        """Tokens of each full view's context, which questions over it share."""
        self._chunks: dict[int, tuple[Sequence[int], Sequence[int], Sequence[str]]] = {}
        """Token spans of each full view's chunks, and their documents."""
        columns = ["input_ids", "prompt_end", "question_start"]
        spans = [] if shuffle_seed is None else ["chunk_ids", "chunk_starts", "chunk_ends"]

        def views() -> Iterator[TokenRow]:
            for index, row in zip(used, tables.take(full, [*columns, *spans], rows), strict=True):
                self._num_shared[index] = row["question_start"]
                if spans:
                    documents = [chunk_id.rpartition("#")[0] for chunk_id in row["chunk_ids"]]
                    self._chunks[index] = row["chunk_starts"].copy(), row["chunk_ends"].copy(), documents
                positions = np.arange(len(row["input_ids"]), dtype=np.int32)
                yield collator.row_of_one(row["input_ids"], positions, row["prompt_end"])

        self._full = dict(zip(used, _on_disk(views()), strict=True))
        if target is not None:
            self._full = _with_targets(self._full, full, rows, target)
        self._masked: dict[int, TokenRow] = {}
        if masked is not None:
            _require_examples(masked, full, tables.frame(full, ["example_id"])["example_id"].to_list())
            found = tables.take(masked, ["input_ids", "position_ids", "prompt_end"], rows)
            self._masked = dict(zip(used, _on_disk(collator.row_of_one(**row) for row in found), strict=True))

    @property
    def num_examples(self) -> int:
        """Distinct examples with labels."""
        return len(self._full)

    @property
    def num_taught(self) -> Counter[str]:
        """Distinct distillation examples, by their split."""
        return Counter() if self._distill is None else self._distill.num_by_split

    def example_ids_of(self, step: int) -> tuple[list[str], list[str]]:
        """Return the ids of a step's examples with labels and of its distillation examples."""
        distilled = [] if self._distill is None else self._distill.example_ids_of(step)
        return [self.example_ids[index] for index in self.batch_indices[step]], distilled

    def batch(self, step: int, batch_tokens: int, pad_id: int, rank: int = 0, world_size: int = 1) -> StepBatch:
        """Return what process `rank` of `world_size` computes in a step: an equal share of the examples."""
        indices = self.batch_indices[step]
        num_own = len(indices) // world_size
        placed = [self._rows(share, step) for share in _shares(indices, world_size)]
        groups = [self._groups([row for row, _ in rows], num_own, batch_tokens) for rows in placed]
        batch = StepBatch(
            _micro_batches(placed, groups, rank, pad_id),
            num_own,
            sum(self._full[index].num_labels for index in indices),
            sum(self._masked[index].num_labels for index in indices if self._masked),
            self._same_document(indices),
            num_full_views=len(indices),
        )
        if self._distill is None:
            return batch
        distill, num_labels = self._distill.micro_batches(step, batch_tokens, pad_id, rank, world_size)
        num_views = len(indices) + len(self._distill.example_ids_of(step))
        return batch._replace(distill=distill, num_labels_distill=num_labels, num_full_views=num_views)

    def _groups(self, rows: Sequence[TokenRow], num_own: int, batch_tokens: int) -> list[list[int]]:
        """Return the indices of the rows of each forward; `rows` in the order of `_rows`."""
        if not self._masked_first:
            return collator.group_rows(rows, batch_tokens)
        num_full = len(rows) - num_own
        masked = [[num_full + index for index in group] for group in collator.group_rows(rows[num_full:], batch_tokens)]
        return [*masked, *collator.group_rows(rows[:num_full], batch_tokens)]

    def _rows(self, indices: Sequence[int], step: int) -> list[_PlacedRow]:
        """Return the rows of the full views, neighbours over one context in one row, then those of the masked views."""
        views = [self._full_view(index, step) for index in indices]
        placed = _side_by_side(views, [self._num_shared[index] for index in indices])
        if self._masked:
            placed += [(self._masked[index], [len(indices) + place]) for place, index in enumerate(indices)]
        return placed

    def _full_view(self, index: int, step: int) -> TokenRow:
        """Return the full view as this step reads it; all questions over one context read it in one order."""
        view = self._full[index]
        if self._shuffle_seed is None:
            return view
        seed = [self._shuffle_seed, step, zlib.crc32(self._keys[index].encode())]
        chunk_L = view.chunk_L
        return replace(
            view,
            input_ids=shuffled(view.input_ids, *self._chunks[index], seed),
            chunk_L=None if chunk_L is None else shuffled(chunk_L, *self._chunks[index], seed),
        )

    def _same_document(self, indices: Sequence[int]) -> Tensor | None:
        keys = [self._keys[index] for index in indices]
        if len(set(keys)) == len(keys):
            return None
        same = np.array([[one == other for other in keys] for one in keys])
        np.fill_diagonal(same, False)
        return torch.from_numpy(same)


class DistillationDataset:
    """The examples whose answers come from the teacher: prompts of full views with the teacher's answers behind."""

    def __init__(
        self,
        batch_indices: Sequence[Sequence[int]],
        full: tables.Table,
        teachings: tables.Table,
        target: AttentionTarget | None = None,
    ) -> None:
        """Read prompts and teacher's answers of all examples that `batch_indices` names, as places in DISTILL_SPLITS.

        With `target`, also the attention that the chunks should get.

        Raises:
            ArtifactError: a table is missing or damaged, or the two are not of the same examples.
        """
        self._batch_indices = batch_indices
        examples = _examples(full, DISTILL_SPLITS)
        self._example_ids: list[str] = examples["example_id"].to_list()
        _require_examples(teachings, full, self._example_ids)
        used = sorted({index for batch in batch_indices for index in batch})
        self.num_by_split = Counter(examples["split"][index] for index in used)
        """Distinct examples."""
        rows = [examples["row"][index] for index in used]
        prompts = tables.take(full, ["input_ids", "prompt_end", "question_start"], rows)
        answers = tables.take(teachings, None, used)
        self._num_shared: dict[int, int] = {}
        """Tokens of each context."""

        def views() -> Iterator[TokenRow]:
            for index, prompt, answer in zip(used, prompts, answers, strict=True):
                ids = np.concatenate([prompt["input_ids"][: prompt["prompt_end"]], answer["output_ids"]])
                row = collator.row_of_one(ids, np.arange(len(ids), dtype=np.int32), prompt["prompt_end"])
                self._num_shared[index] = prompt["question_start"]
                shape = (len(answer["output_ids"]), answer["num_top"])
                yield replace(
                    row,
                    teacher_ids_NK=answer["top_ids"].astype(np.int64).reshape(shape),
                    teacher_log_probs_NK=answer["top_log_probs"].reshape(shape).copy(),
                )

        self._rows = dict(zip(used, _on_disk(views()), strict=True))
        if target is not None:
            self._rows = _with_targets(self._rows, full, rows, target)

    def example_ids_of(self, step: int) -> list[str]:
        return [self._example_ids[index] for index in self._batch_indices[step]]

    def micro_batches(
        self, step: int, batch_tokens: int, pad_id: int, rank: int = 0, world_size: int = 1
    ) -> tuple[list[MicroBatch], int]:
        """Return the micro-batches of process `rank`, and the label tokens of the step over all processes."""
        indices = self._batch_indices[step]
        shares = _shares(indices, world_size)
        placed = [
            _side_by_side([self._rows[index] for index in share], [self._num_shared[index] for index in share])
            for share in shares
        ]
        groups = [collator.group_rows([row for row, _ in rows], batch_tokens) for rows in placed]
        num_labels = sum(self._rows[index].num_labels for index in indices)
        return _micro_batches(placed, groups, rank, pad_id), num_labels


def context_keys(full: tables.Table, splits: Sequence[str] = TRAIN_SPLITS, together: bool = False) -> list[str]:
    """Return what each example of `splits` is about, in lines as tables.FULL_VIEWS says.

    With `together`, all examples over one context (the same documents in the same order) have one key, with the lines
    of all of them: they may stand side by side in a batch, and share the context's computation.
    """
    examples = _examples(full, splits, ["document_ids"] if together else [])
    if together:
        contexts = pl.col("document_ids").list.join("\t")
        of_context = pl.col("context_key").str.split("\n").explode().unique().sort().str.join("\n").over(contexts)
        examples = examples.with_columns(of_context)
    keys: list[str] = examples["context_key"].to_list()
    return keys


def shuffled(
    input_ids_L: Ints, chunk_starts: Sequence[int], chunk_ends: Sequence[int], documents: Sequence[str], seed: list[int]
) -> Ints:
    """Return the token ids with the documents in a random order, shape (L,); equal seeds give equal orders.

    A document's chunks stay together and in order. Tokens before the first chunk (BOS, instruction) and behind the last
    one (question, answer) stay in place. Position ids do not change.

    Args:
        chunk_starts, chunk_ends: token spans of the chunks, in context order, without a gap.
        documents: the document of each chunk.
    """
    if not len(chunk_starts):
        return input_ids_L
    first, last = chunk_starts[0], chunk_ends[-1]
    spans = list(zip(documents, chunk_starts, chunk_ends, strict=True))
    pieces: list[Ints] = []
    for _, group in groupby(spans, key=lambda span: span[0]):
        of_document = list(group)
        pieces.append(input_ids_L[of_document[0][1] : of_document[-1][2]])
    order = np.random.default_rng(seed).permutation(len(pieces))
    return np.concatenate([input_ids_L[:first], *(pieces[place] for place in order), input_ids_L[last:]])


def _on_disk(rows: Iterable[TokenRow]) -> Iterator[TokenRow]:
    """Yield the rows with their tokens in a file that is mapped into memory."""
    scratch, nothing = Scratch(np.int32), np.empty(0, dtype=np.int32)
    held: list[tuple[int, TokenRow]] = []
    for row in rows:
        scratch.append(row.input_ids)
        scratch.append(row.position_ids)
        held.append((len(row), replace(row, input_ids=nothing, position_ids=nothing)))
    tokens, start = scratch.mapped(), 0
    for length, row in held:
        middle, end = start + length, start + 2 * length
        yield replace(row, input_ids=tokens[start:middle], position_ids=tokens[middle:end])
        start = end


def _with_targets(
    views: Mapping[int, TokenRow], full: tables.Table, rows: Sequence[int], target: AttentionTarget
) -> dict[int, TokenRow]:
    """Add to single full views, `rows` of the table `full`, the attention that their chunks should get.

    Raises:
        ArtifactError: as tables.side_by_side; the scores are of other examples or chunks.
    """
    spans, scores = ["chunk_ids", "chunk_starts", "chunk_ends"], ["chunk_ids", "scores", "ranks"]
    pairs = tables.side_by_side((full, ["example_id", *spans]), (tables.SCORES, ["example_id", *scores]))
    index_of = dict(zip(rows, views, strict=True))
    made: dict[int, TokenRow] = {}
    for number, (row, scored) in enumerate(pairs):
        if number not in index_of:
            continue
        index, view = index_of[number], views[index_of[number]]
        chunk_L = np.full(len(view), NO_CHUNK, dtype=np.int32)
        for chunk, (start, end) in enumerate(zip(row["chunk_starts"], row["chunk_ends"], strict=True)):
            chunk_L[start:end] = chunk
        scores_C, ranks_C = np.array(scored["scores"], dtype=np.float32), np.array(scored["ranks"], dtype=np.int32)
        made[index] = replace(view, chunk_L=chunk_L, target_EC=target.shares(scores_C, ranks_C)[None])
    return made


def _side_by_side(views: Sequence[TokenRow], num_shared: Sequence[int]) -> list[_PlacedRow]:
    """Put neighbours whose contexts, the first `num_shared` tokens, are equal token for token into one row."""
    groups: list[list[int]] = []
    for place, (view, num) in enumerate(zip(views, num_shared, strict=True)):
        first = groups[-1][0] if groups else place
        same = 0 < num == num_shared[first] and np.array_equal(view.input_ids[:num], views[first].input_ids[:num])
        if groups and same:
            groups[-1].append(place)
        else:
            groups.append([place])
    return [
        (collator.row_of_many([views[place] for place in group], num_shared[group[0]]), group)
        if len(group) > 1
        else (views[group[0]], group)
        for group in groups
    ]


def _shares(indices: Sequence[int], world_size: int) -> list[Sequence[int]]:
    """Split the examples of a step evenly over the processes."""
    num_own = len(indices) // world_size
    assert num_own * world_size == len(indices), (len(indices), world_size)
    return [indices[rank * num_own : (rank + 1) * num_own] for rank in range(world_size)]


def _micro_batches(
    placed: Sequence[Sequence[_PlacedRow]], groups: Sequence[Sequence[Sequence[int]]], rank: int, pad_id: int
) -> list[MicroBatch]:
    """Make the micro-batches of process `rank`, and idle ones until it has as many as every other process.

    All processes take part in each forward where layers are sharded, so none may have fewer.

    Args:
        placed: the rows of each process.
        groups: for each process, the groups of rows that share a forward.
    """
    own: list[MicroBatch] = []
    for group in groups[rank]:
        members = [placed[rank][index] for index in group]
        inputs = collator.collate([row for row, _ in members], pad_id)
        own.append(MicroBatch(inputs, torch.tensor([place for _, places in members for place in places])))
    return own + [own[-1]._replace(idle=True)] * (max(map(len, groups)) - len(own)) if own else []


def _examples(full: tables.Table, splits: Sequence[str], more: Sequence[str] = ()) -> pl.DataFrame:
    """Return row number, example_id, context_key and `more` columns of the full views of `splits`."""
    found = tables.frame(full, ["example_id", "split", "context_key", *more])
    return found.with_row_index("row").filter(pl.col("split").is_in(splits))


def _require_examples(table: tables.Table, full: tables.Table, expected: list[str]) -> None:
    """Check that the rows of a table are of the `expected` examples of the full views, in order."""
    ids = tables.frame(table, ["example_id"])["example_id"]
    for number, (found, wanted) in enumerate(zip_longest(ids, expected, fillvalue="no example")):
        if found != wanted:
            raise ArtifactError(
                f"{table}: row {number + 1} is of {found}, in {full} of {wanted}; run `dvc repro -f {table.stage}`"
            )
