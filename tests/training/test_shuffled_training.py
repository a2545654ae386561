"""Training with the documents of the full views in another order at each step."""

import numpy as np
import pytest

from pipeline.common import tables
from pipeline.training.dataset import TrainingData
from tests import toy_training
from tests.model import tiny


@pytest.fixture
def views(tmp_path):
    """Each chunk of the toy is a document of its own."""
    toy_training.write_views(tmp_path)
    rows = list(tables.scan(tables.FULL_VIEWS.at(tmp_path / "full.parquet")))
    rows = [row | {"chunk_ids": [f"{document}#0" for document in row["document_ids"]]} for row in rows]
    tables.write(tables.FULL_VIEWS.at(tmp_path / "full.parquet"), rows)
    return tmp_path


def rows_of(views, batches, seed):
    data = TrainingData(batches, views / "full.parquet", views / "masked.parquet", None, seed)
    return [data.batch(step, 1, tiny.PAD).packs for step in range(len(batches))]


def ids(pack):
    return pack.view.input_ids_BL[0].tolist()


def test_full_views_change_their_order_from_step_to_step_and_masked_views_do_not(views):
    batches = [[0, 1]] * 6
    given, shuffled = rows_of(views, batches, None), rows_of(views, batches, 3)
    orders = set()
    for plain, mixed in zip(given, shuffled, strict=True):
        for one, other in zip(plain, mixed, strict=True):
            if int(one.places_E[0]) >= 2:  # a masked view
                assert ids(one) == ids(other)
            else:
                assert sorted(ids(one)) == sorted(ids(other))
                assert one.view.labels_N.tolist() == other.view.labels_N.tolist()
                end = int(one.view.prompt_end_E[0])
                assert ids(one)[end - 3 :] == ids(other)[end - 3 :]  # question and answer
                orders.add(tuple(ids(other)))
    assert len(orders) > 6
    again = rows_of(views, batches, 3)
    assert [[ids(pack) for pack in packs] for packs in again] == [[ids(pack) for pack in packs] for packs in shuffled]


def test_questions_over_one_context_still_share_its_row(views):
    ((*packs,),) = rows_of(views, [[6, 7]], 3)  # e7 and e8 ask about one context
    full = [pack for pack in packs if int(pack.places_E[0]) < 2]
    assert [pack.view.branch_BL is not None for pack in full] == [True]
    assert np.array_equal(np.sort(full[0].places_E), [0, 1])
