"""What the teacher said, as what each process computes of it in each step."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.common import tables
from pipeline.model import collator
from pipeline.runtime.errors import ArtifactError
from pipeline.training.micro_batch import Pack

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
        views = (row for row in tables.scan(full, tables.FULL_VIEWS, columns) if row["split"] in SPLITS)
        said = tables.scan(teachings, tables.TEACHINGS)
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
