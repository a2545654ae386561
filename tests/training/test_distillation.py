"""The teacher's answers as the rows of each step."""

import numpy as np
import pytest

from pipeline.common import tables
from pipeline.runtime.errors import ArtifactError
from pipeline.training.dataset import Taught
from tests import toy_training
from tests.model import tiny


@pytest.fixture
def views(tmp_path):
    """Eight training questions; e0 is unlabelled and its view ends with the question."""
    toy_training.write_views(tmp_path)
    rows = list(tables.scan(tables.FULL_VIEWS.at(tmp_path / "full.parquet")))
    rows[0] |= {"split": "unlabelled", "input_ids": rows[0]["input_ids"][: rows[0]["prompt_end"]]}
    tables.write(tables.FULL_VIEWS.at(tmp_path / "full.parquet"), rows)
    said = [
        {
            "example_id": row["example_id"],
            "output_ids": [7 + number] * (number % 3 + 1) + [tiny.EOS],
            "top_ids": list(range(2 * (number % 3 + 2))),
            "top_log_probs": [-float(place + 1) for place in range(2 * (number % 3 + 2))],
            "num_top": 2,
        }
        for number, row in enumerate(rows)
        if row["split"] != "test"
    ]
    tables.write(tables.TEACHINGS.at(tmp_path / "teachings.parquet"), said)
    return tmp_path


def taught(views, batches):
    return Taught(batches, views / "full.parquet", views / "teachings.parquet")


def test_a_row_is_the_prompt_and_what_the_teacher_said_not_the_label(views):
    ((pack,), num_labels) = taught(views, [[0, 2]]).packs(0, 1000, tiny.PAD)
    full = list(tables.scan(tables.FULL_VIEWS.at(views / "full.parquet")))
    said = list(tables.scan(tables.TEACHINGS.at(views / "teachings.parquet")))
    assert num_labels == sum(len(said[number]["output_ids"]) for number in (0, 2)) == len(pack.view.labels_N)
    for row, example in zip(pack.view.row_E.tolist(), pack.view.prompt_end_E.tolist(), strict=True):
        assert example in (full[0]["prompt_end"], full[2]["prompt_end"])
        ids = pack.view.input_ids_BL[row][pack.view.mask_BL[row] == 1].tolist()
        number = 0 if example == full[0]["prompt_end"] else 2
        assert ids == [*full[number]["input_ids"][:example], *said[number]["output_ids"]]
    for label in range(num_labels):
        number = (0, 2)[int(pack.view.prompt_end_E[pack.view.label_examples_N[label]] == full[2]["prompt_end"])]
        place = int(pack.view.label_positions_N[label]) + 1 - full[number]["prompt_end"]
        assert int(pack.view.labels_N[label]) == said[number]["output_ids"][place]
        assert pack.view.taught_ids_NK[label].tolist() == said[number]["top_ids"][2 * place : 2 * place + 2]
        np.testing.assert_allclose(
            pack.view.taught_log_probs_NK[label], said[number]["top_log_probs"][2 * place : 2 * place + 2]
        )


def test_processes_share_a_step_and_have_equally_many_forwards(views):
    both = taught(views, [[0, 1, 2, 3]])
    (one, num_one), (other, num_other) = (both.packs(0, 1, tiny.PAD, rank, 2) for rank in (0, 1))
    (all_packs, num_all) = both.packs(0, 1, tiny.PAD)
    assert num_one == num_other == num_all
    assert len(one) == len(other) == 2 and len(all_packs) == 4
    counted = sum(len(pack.view.labels_N) for pack in (*one, *other) if not pack.idle)
    assert counted == num_all


def test_answers_of_other_questions_are_refused(views):
    said = list(tables.scan(tables.TEACHINGS.at(views / "teachings.parquet")))
    tables.write(tables.TEACHINGS.at(views / "teachings.parquet"), said[1:])
    with pytest.raises(ArtifactError, match=r"row 1 is of e1, in .*full.parquet of e0; run `dvc repro -f teach`"):
        taught(views, [[0]])
