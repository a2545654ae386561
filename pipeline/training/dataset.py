"""What one process computes of one step: forwards of packed rows, and what they count in the whole.

The documents of a full view in another order: against a model that answers from the places it likes best.

What the teacher said, as what each process computes of it in each step.

The views on disk as what each process computes in each step.
"""

import zlib
from collections.abc import Sequence
from itertools import groupby, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.common import tables
from pipeline.model import collator
from pipeline.model.collator import View
from pipeline.runtime.errors import ArtifactError

# B examples of the batch, b those of this process, E those of a pack


class Pack(NamedTuple):
    """One forward."""

    view: View
    places_E: Tensor
    """Place of each example among those of this process; + b where it is the example's masked view."""
    idle: bool = False
    """Computed to keep step with the other processes, counted by none."""

    def is_masked(self, num_own: int) -> bool:
        """All its rows are masked views, of a process that has `num_own` examples."""
        return bool((self.places_E >= num_own).all())


class Batch(NamedTuple):
    """What this process computes of a step."""

    packs: Sequence[Pack]
    num_own: int
    """b."""
    num_labels_full: int
    """Label tokens of all full views of the step, over all processes; `num_labels_masked` likewise."""
    num_labels_masked: int
    same_document_BB: Tensor | None
    """True for two examples over one context, never on the diagonal; None when there are none."""
    taught: Sequence[Pack] = ()
    """Views with a teacher's distribution, apart from the others; their places mean nothing."""
    num_labels_taught: int = 0
    """Of the step, over all processes."""

    def to(self, device: torch.device) -> "Batch":
        packs, taught = (
            [Pack(pack.view.to(device), pack.places_E.to(device), pack.idle) for pack in found]
            for found in (self.packs, self.taught)
        )
        same = None if self.same_document_BB is None else self.same_document_BB.to(device)
        return self._replace(packs=packs, same_document_BB=same, taught=taught)


Ints = NDArray[np.int32]


def shuffled(
    input_ids_L: Ints, chunk_starts: Sequence[int], chunk_ends: Sequence[int], documents: Sequence[str], seed: list[int]
) -> Ints:
    """The token ids with the documents between the first chunk and the last in a drawn order, shape (L,).

    A document's chunks stay together and in order; what stands before the first chunk (BOS, instruction) and behind the
    last one (question, answer) stays where it is. Positions run on as before. Equal seeds draw equal orders.

    Args:
        chunk_starts, chunk_ends: token spans of the chunks, in context order, without a gap.
        documents: of each chunk.
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


SPLITS = ("train", "unlabelled")


class _Question(NamedTuple):
    """The full view with the teacher's answer behind it; N tokens of that, the teacher's K likeliest at each."""

    example_id: str
    row: collator.Row
    top_ids_NK: NDArray[np.int64]
    top_log_probs_NK: NDArray[np.float32]


class Taught:
    """The taught questions of a schedule; only rows that some step uses are held in memory."""

    def __init__(self, batches: Sequence[Sequence[int]], full: Path, teachings: Path) -> None:
        self._batches = batches
        used = {index for batch in batches for index in batch}
        self._questions: dict[int, _Question] = {}
        columns = ["example_id", "split", "input_ids", "prompt_end"]
        views = (row for row in tables.scan(tables.FULL_VIEWS.at(full), columns) if row["split"] in SPLITS)
        said = tables.scan(tables.TEACHINGS.at(teachings))
        for index, (view, answer) in enumerate(zip_longest(views, said, fillvalue={"example_id": "no row"})):
            if view["example_id"] != answer["example_id"]:
                raise ArtifactError(
                    f"{teachings}: row {index + 1} is of {answer['example_id']}, in {full} of {view['example_id']}; "
                    "run `dvc repro -f teach`"
                )
            if index in used:
                self._questions[index] = _question(view, answer)

    def named(self, step: int) -> list[str]:
        """Ids of the questions of a step."""
        return [self._questions[index].example_id for index in self._batches[step]]

    def packs(self, step: int, batch_tokens: int, pad_id: int, rank: int = 0, num: int = 1) -> tuple[list[Pack], int]:
        """The forwards of process `rank` of `num`, as many as each has, and the label tokens of all."""
        indices = self._batches[step]
        num_own = len(indices) // num
        assert num_own * num == len(indices), (len(indices), num)
        shares = [indices[other * num_own : (other + 1) * num_own] for other in range(num)]
        packed = [
            list(collator.packs([self._questions[index].row for index in share], batch_tokens)) for share in shares
        ]
        found = [self._pack([shares[rank][place] for place in pack], pad_id) for pack in packed[rank]]
        found += [found[-1]._replace(idle=True)] * (max(map(len, packed)) - len(found))
        return found, sum(len(self._questions[index].top_ids_NK) for index in indices)

    def _pack(self, indices: Sequence[int], pad_id: int) -> Pack:
        questions = [self._questions[index] for index in indices]
        view = collator.collate([question.row for question in questions], pad_id)
        view = view._replace(
            taught_ids_NK=torch.from_numpy(np.concatenate([question.top_ids_NK for question in questions])),
            taught_log_probs_NK=torch.from_numpy(np.concatenate([question.top_log_probs_NK for question in questions])),
        )
        return Pack(view, torch.arange(len(questions)))


def _question(view: tables.Row, said: tables.Row) -> _Question:
    prompt_end, answer = view["prompt_end"], said["output_ids"]
    ids = np.asarray([*view["input_ids"][:prompt_end], *answer], dtype=np.int32)
    shape = (len(answer), said["num_top"])
    return _Question(
        view["example_id"],
        collator.row_of_one(ids, np.arange(len(ids), dtype=np.int32), prompt_end),
        np.asarray(said["top_ids"], dtype=np.int64).reshape(shape),
        np.asarray(said["top_log_probs"], dtype=np.float32).reshape(shape),
    )


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
        for row in tables.scan(tables.FULL_VIEWS.at(full), [*columns, "split", "question_start", *spans]):
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
            for row in tables.scan(tables.MASKED_VIEWS.at(masked), [*columns, "position_ids"]):
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
        return view._replace(input_ids=shuffled(view.input_ids, *view.chunks, seed))

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
    rows = tables.scan(tables.FULL_VIEWS.at(full), ["split", "document_ids", "gold_position"])
    return [
        row["document_ids"][row["gold_position"]] if row["gold_position"] >= 0 else "\n".join(row["document_ids"])
        for row in rows
        if row["split"] in splits
    ]
