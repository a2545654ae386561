"""The views on disk as what each process computes in each step."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pipeline.common import tables
from pipeline.model import collator
from pipeline.training import augmentation
from pipeline.training.distillation import Taught
from pipeline.training.micro_batch import Batch, Pack

Ints = collator.Ints


class _View(NamedTuple):
    input_ids: Ints
    position_ids: Ints
    prompt_end: int
    num_shared: int
    """Tokens of the context, which questions over it share."""
    chunks: tuple[Sequence[int], Sequence[int], Sequence[str]] = ((), (), ())
    """Token spans of the chunks and their documents, where these are to be shuffled."""

    @property
    def num_labels(self) -> int:
        return len(self.input_ids) - self.prompt_end

    @property
    def row(self) -> collator.Row:
        return collator.row_of_one(self.input_ids, self.position_ids, self.prompt_end)


class _Planned(NamedTuple):
    """A row, and where its examples stand among those of its process."""

    row: collator.Row
    places: list[int]


class TrainingData:
    """The training examples of a schedule; only rows that some step uses are held in memory."""

    def __init__(
        self,
        batches: Sequence[Sequence[int]],
        full: Path,
        masked: Path | None,
        taught: Taught | None = None,
        shuffle_seed: int | None = None,
        masked_first: bool = False,
    ) -> None:
        """`shuffle_seed`: the documents of each full view stand in another drawn order at each step; None: as given.
        `masked_first`: masked views in forwards of their own, before those of the full views.
        """
        self.batches = batches
        self._masked_first = masked_first
        self._taught = taught
        self._shuffle_seed = shuffle_seed
        used = {index for batch in batches for index in batch}
        self._keys = context_keys(full)
        self.example_ids: dict[int, str] = {}
        self._full: dict[int, _View] = {}
        self._masked: dict[int, _View] = {}
        columns = ["example_id", "input_ids", "prompt_end"]
        num_train = 0
        spans = [] if shuffle_seed is None else ["chunk_ids", "chunk_starts", "chunk_ends"]
        for row in tables.scan(full, tables.FULL_VIEWS, [*columns, "split", "question_start", *spans]):
            if row["split"] == "train":
                if num_train in used:
                    ids = np.asarray(row["input_ids"], dtype=np.int32)
                    places = np.arange(len(ids), dtype=np.int32)
                    view = _View(ids, places, row["prompt_end"], row["question_start"])
                    if spans:
                        documents = [chunk_id.rpartition("#")[0] for chunk_id in row["chunk_ids"]]
                        view = view._replace(chunks=(row["chunk_starts"], row["chunk_ends"], documents))
                    self._full[num_train] = view
                    self.example_ids[num_train] = row["example_id"]
                num_train += 1
        if masked is not None:
            index_of = {example_id: index for index, example_id in self.example_ids.items()}
            for row in tables.scan(masked, tables.MASKED_VIEWS, [*columns, "position_ids"]):
                if (index := index_of.get(row["example_id"])) is not None:
                    ids, places = (np.asarray(row[name], dtype=np.int32) for name in ("input_ids", "position_ids"))
                    self._masked[index] = _View(ids, places, row["prompt_end"], 0)

    @property
    def num_examples(self) -> int:
        """Distinct examples with labels."""
        return len(self._full)

    def named(self, step: int) -> tuple[list[str], list[str]]:
        """Ids of the examples of a step, and of the questions that are taught in it."""
        taught = [] if self._taught is None else self._taught.named(step)
        return [self.example_ids[index] for index in self.batches[step]], taught

    def batch(self, step: int, batch_tokens: int, pad_id: int, rank: int = 0, num: int = 1) -> Batch:
        """What process `rank` of `num` computes in a step: a `num`-th of the examples, in as many forwards as each."""
        indices = self.batches[step]
        num_own = len(indices) // num
        assert num_own * num == len(indices), (len(indices), num)
        shares = [indices[other * num_own : (other + 1) * num_own] for other in range(num)]
        # Where layers are sharded each forward is a conversation of all processes, so none may have fewer.
        planned = [self._rows(share, step) for share in (shares if num > 1 else shares[rank:])]
        packed = [self._packs([plan.row for plan in plans], num_own, batch_tokens) for plans in planned]
        own, own_packs = (planned[rank], packed[rank]) if num > 1 else (planned[0], packed[0])
        packs = [
            Pack(
                collator.collate([own[index].row for index in pack], pad_id),
                torch.tensor([place for index in pack for place in own[index].places]),
            )
            for pack in own_packs
        ]
        if packs:  # none where no label is used
            packs += [packs[-1]._replace(idle=True)] * (max(map(len, packed)) - len(packs))
        taught, num_labels_taught = (
            ([], 0) if self._taught is None else self._taught.packs(step, batch_tokens, pad_id, rank, num)
        )
        return Batch(
            packs,
            num_own,
            sum(self._full[index].num_labels for index in indices),
            sum(self._masked[index].num_labels for index in indices if self._masked),
            self._same_document(indices),
            taught,
            num_labels_taught,
        )

    def _packs(self, rows: Sequence[collator.Row], num_own: int, batch_tokens: int) -> list[list[int]]:
        """Indices of the rows of each forward; `rows` as `_rows` gives them."""
        if not self._masked_first:
            return list(collator.packs(rows, batch_tokens))
        num_full = len(rows) - num_own
        masked = [[num_full + index for index in pack] for pack in collator.packs(rows[num_full:], batch_tokens)]
        return [*masked, *collator.packs(rows[:num_full], batch_tokens)]

    def _rows(self, indices: Sequence[int], step: int = 0) -> list[_Planned]:
        """The full views, neighbours over one context in one row, then the masked views."""
        groups: list[list[int]] = []
        for place, index in enumerate(indices):
            if groups and self._share(indices[groups[-1][0]], index):
                groups[-1].append(place)
            else:
                groups.append([place])
        planned: list[_Planned] = []
        for places in groups:
            views = [self._view(indices[place], step) for place in places]
            if len(views) == 1:
                planned.append(_Planned(views[0].row, places))
            else:
                ids, ends = [view.input_ids for view in views], [view.prompt_end for view in views]
                planned.append(_Planned(collator.row_of_many(ids, ends, views[0].num_shared), places))
        if self._masked:
            planned += [_Planned(self._masked[index].row, [len(indices) + i]) for i, index in enumerate(indices)]
        return planned

    def _view(self, index: int, step: int) -> _View:
        """The full view as the step reads it; questions over one context read it in one order."""
        view = self._full[index]
        if self._shuffle_seed is None:
            return view
        seed = [self._shuffle_seed, step, zlib.crc32(self._keys[index].encode())]
        return view._replace(input_ids=augmentation.shuffled(view.input_ids, *view.chunks, seed))

    def _share(self, one: int, other: int) -> bool:
        """Whether the contexts are token for token the same."""
        if self._keys[one] != self._keys[other]:
            return False
        first, second = self._full[one], self._full[other]
        num = first.num_shared
        return 0 < num == second.num_shared and np.array_equal(first.input_ids[:num], second.input_ids[:num])

    def _same_document(self, indices: Sequence[int]) -> torch.Tensor | None:
        keys = [self._keys[index] for index in indices]
        if len(set(keys)) == len(keys):
            return None
        same = np.array([[one == other for other in keys] for one in keys])
        np.fill_diagonal(same, False)
        return torch.from_numpy(same)


def context_keys(full: Path, splits: Sequence[str] = ("train",)) -> list[str]:
    """What makes two examples of `splits` share a context, for each: the gold document, or else the whole context."""
    rows = tables.scan(full, tables.FULL_VIEWS, ["split", "document_ids", "gold_position"])
    return [
        row["document_ids"][row["gold_position"]] if row["gold_position"] >= 0 else "\n".join(row["document_ids"])
        for row in rows
        if row["split"] in splits
    ]
