"""Micro-batches of each step: which rows, in which order, on which process; shuffled documents; distillation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common import tables
from pipeline.model.collator import NO_CHUNK
from pipeline.runtime.errors import ArtifactError
from pipeline.training import dataset
from pipeline.training.attention import AttentionTarget
from pipeline.training.dataset import DistillationDataset, TrainingDataset, context_keys
from tests import toy_training
from tests.model import tiny
from tests.toy_training import write_views


@pytest.fixture
def views(tmp_path):
    write_views(tmp_path)
    return tmp_path


def tables_of(views):
    return tables.FULL_VIEWS.at(views / "full.parquet"), tables.MASKED_VIEWS.at(views / "masked.parquet")


def test_only_training_rows_are_read_and_paired_by_example(views: Path):
    dataset = TrainingDataset([[0, 4], [7, 0]], *tables_of(views))
    assert dataset.example_ids == {0: "e0", 4: "e5", 7: "e8"}  # e4 is a test example
    assert dataset.num_examples == 3
    batch = dataset.batch(0, 1024, tiny.PAD)
    assert batch.num_own == 2
    assert sorted(place for micro_batch in batch.micro_batches for place in micro_batch.places_E.tolist()) == [
        0,
        1,
        2,
        3,
    ]
    assert batch.num_labels_full == batch.num_labels_masked == 3 + 5
    assert batch.same_document_BB is None


def test_masked_views_come_first_where_they_are_what_full_views_are_drawn_to(views: Path):
    dataset = TrainingDataset([[0, 6, 7]], *tables_of(views), masked_first=True)
    places = [micro_batch.places_E.tolist() for micro_batch in dataset.batch(0, 1024, tiny.PAD).micro_batches]
    assert all(place >= 3 for micro_batch in places[:-2] for place in micro_batch) and places[-2:] == [[1, 2], [0]]
    mixed = TrainingDataset([[0, 6, 7]], *tables_of(views))
    assert {place for micro_batch in places for place in micro_batch} == {
        place for micro_batch in mixed.batch(0, 1024, tiny.PAD).micro_batches for place in micro_batch.places_E.tolist()
    }


def test_questions_about_one_context_share_a_row(views: Path):
    dataset = TrainingDataset([[0, 6, 7]], *tables_of(views))
    batch = dataset.batch(0, 1024, tiny.PAD)
    assert [
        micro_batch.places_E.tolist()
        for micro_batch in batch.micro_batches
        if micro_batch.inputs.segment_BL is not None
    ] == [[1, 2]]
    assert batch.same_document_BB.tolist() == [[False] * 3, [False, False, True], [False, True, False]]


def test_each_process_has_its_examples_and_as_many_forwards_as_the_others(views: Path):
    """One has two questions in one row, the other two rows."""
    dataset = TrainingDataset([[6, 7, 0, 1]], *tables_of(views))
    parts = [dataset.batch(0, 1, tiny.PAD, rank, 2) for rank in range(2)]
    assert [len(part.micro_batches) for part in parts] == [4, 4]
    assert [[micro_batch.idle for micro_batch in part.micro_batches].count(True) for part in parts] == [1, 0]
    assert all(part.num_own == 2 and part.num_labels_full == 16 for part in parts)
    own = [
        sum(len(micro_batch.inputs.labels_N) for micro_batch in part.micro_batches if not micro_batch.idle) // 2
        for part in parts
    ]
    assert own == [9, 7]  # label tokens are not spread evenly, and each process divides by those of all


def test_masked_views_of_other_examples_are_refused(views: Path):
    masked = list(tables.scan(tables.MASKED_VIEWS.at(views / "masked.parquet")))
    tables.write(tables.MASKED_VIEWS.at(views / "masked.parquet"), [masked[1], masked[0], *masked[2:]])
    with pytest.raises(ArtifactError, match=r"masked.parquet: row 1 is of e1, in .* of e0; run `dvc repro -f mask`"):
        TrainingDataset([[0]], *tables_of(views))


def test_context_keys_are_those_of_the_training_rows(views: Path):
    assert context_keys(tables.FULL_VIEWS.at(views / "full.parquet")) == [
        "d0",
        "d1",
        "d2",
        "d3",
        "d5",
        "d6",
        "d7",
        "d7",
    ]


def test_questions_over_one_context_that_stand_together_have_one_key_and_are_no_negatives_of_each_other(views: Path):
    full, _ = tables_of(views)
    rows = list(tables.scan(full))
    for number, key in ((0, "d0"), (2, "d2\nx")):  # two questions over the same documents, with other gold texts
        rows[number] |= {"document_ids": ["d0", "d2", "x"], "context_key": key}
    tables.write(full, rows)
    assert context_keys(full)[:3] == ["d0", "d1", "d2\nx"]
    assert context_keys(full, together=True)[:4] == ["d0\nd2\nx", "d1", "d0\nd2\nx", "d3"]
    asked = [TrainingDataset([[0, 1, 2]], full, None, together=together) for together in (False, True)]
    apart, together = (one.batch(0, 1000, tiny.PAD).same_document_BB for one in asked)
    assert apart is None
    assert together.nonzero().tolist() == [[0, 2], [2, 0]]


def test_documents_move_whole_and_the_rest_stays():
    ids = np.array([1, 2, 10, 11, 12, 20, 21, 30, 31, 32, 33, 90, 91], dtype=np.int32)
    starts, ends, documents = [2, 4, 5, 7], [4, 5, 7, 11], ["a", "a", "b", "c"]
    seen = {tuple(dataset.shuffled(ids, starts, ends, documents, [1, step]).tolist()) for step in range(60)}
    texts = ([10, 11, 12], [20, 21], [30, 31, 32, 33])
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    assert seen == {(1, 2, *(token for place in order for token in texts[place]), 90, 91) for order in orders}


@given(st.lists(st.integers(0, 4), max_size=6), st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**31))
def test_nothing_is_lost_and_equal_seeds_draw_equal_orders(lengths, before, behind, seed):
    bounds = (before + np.concatenate(([0], np.cumsum(lengths)))).astype(int).tolist()
    ids = np.arange(before + sum(lengths) + behind, dtype=np.int32)
    documents = [str(number // 2) for number in range(len(lengths))]
    found = dataset.shuffled(ids, bounds[:-1], bounds[1:], documents, [seed])
    assert sorted(found.tolist()) == ids.tolist()
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found[:before], ids[:before])
    np.testing.assert_array_equal(found[len(ids) - behind :], ids[len(ids) - behind :])
    np.testing.assert_array_equal(found, dataset.shuffled(ids, bounds[:-1], bounds[1:], documents, [seed]))


@pytest.fixture
def documents_apart(tmp_path):
    """Each chunk of the toy is a document of its own."""
    toy_training.write_views(tmp_path)
    rows = list(tables.scan(tables.FULL_VIEWS.at(tmp_path / "full.parquet")))
    rows = [row | {"chunk_ids": [f"{document}#0" for document in row["document_ids"]]} for row in rows]
    tables.write(tables.FULL_VIEWS.at(tmp_path / "full.parquet"), rows)
    return tmp_path


def rows_of(views, batches, seed):
    dataset = TrainingDataset(batches, *tables_of(views), None, seed)
    return [dataset.batch(step, 1, tiny.PAD).micro_batches for step in range(len(batches))]


def ids(micro_batch):
    return micro_batch.inputs.input_ids_BL[0].tolist()


def test_full_views_change_their_order_from_step_to_step_and_masked_views_do_not(documents_apart):
    batches = [[0, 1]] * 6
    given, shuffled = rows_of(documents_apart, batches, None), rows_of(documents_apart, batches, 3)
    orders = set()
    for plain, mixed in zip(given, shuffled, strict=True):
        for one, other in zip(plain, mixed, strict=True):
            if int(one.places_E[0]) >= 2:  # a masked view
                assert ids(one) == ids(other)
            else:
                assert sorted(ids(one)) == sorted(ids(other))
                assert one.inputs.labels_N.tolist() == other.inputs.labels_N.tolist()
                end = int(one.inputs.prompt_end_E[0])
                assert ids(one)[end - 3 :] == ids(other)[end - 3 :]  # question and answer
                orders.add(tuple(ids(other)))
    assert len(orders) > 6
    again = rows_of(documents_apart, batches, 3)
    assert [list(map(ids, step)) for step in again] == [list(map(ids, step)) for step in shuffled]


def test_questions_over_one_context_still_share_its_row(documents_apart):
    ((*micro_batches,),) = rows_of(documents_apart, [[6, 7]], 3)  # e7 and e8 ask about one context
    full = [micro_batch for micro_batch in micro_batches if int(micro_batch.places_E[0]) < 2]
    assert [micro_batch.inputs.segment_BL is not None for micro_batch in full] == [True]
    assert np.array_equal(np.sort(full[0].places_E), [0, 1])


@pytest.fixture
def teachings(tmp_path):
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


def distillation(views, batch_indices):
    full, teachings = tables.FULL_VIEWS.at(views / "full.parquet"), tables.TEACHINGS.at(views / "teachings.parquet")
    return DistillationDataset(batch_indices, full, teachings)


def test_a_row_is_the_prompt_and_what_the_teacher_said_not_the_label(teachings):
    ((micro_batch,), num_labels) = distillation(teachings, [[0, 2]]).micro_batches(0, 1000, tiny.PAD)
    inputs = micro_batch.inputs
    full = list(tables.scan(tables.FULL_VIEWS.at(teachings / "full.parquet")))
    said = list(tables.scan(tables.TEACHINGS.at(teachings / "teachings.parquet")))
    assert num_labels == sum(len(said[number]["output_ids"]) for number in (0, 2)) == len(inputs.labels_N)
    for row, example in zip(inputs.row_E.tolist(), inputs.prompt_end_E.tolist(), strict=True):
        assert example in (full[0]["prompt_end"], full[2]["prompt_end"])
        ids = inputs.input_ids_BL[row][inputs.mask_BL[row] == 1].tolist()
        number = 0 if example == full[0]["prompt_end"] else 2
        assert ids == [*full[number]["input_ids"][:example], *said[number]["output_ids"]]
    for label in range(num_labels):
        number = (0, 2)[int(inputs.prompt_end_E[inputs.label_examples_N[label]] == full[2]["prompt_end"])]
        place = int(inputs.label_positions_N[label]) + 1 - full[number]["prompt_end"]
        assert int(inputs.labels_N[label]) == said[number]["output_ids"][place]
        assert inputs.teacher_ids_NK[label].tolist() == said[number]["top_ids"][2 * place : 2 * place + 2]
        np.testing.assert_allclose(
            inputs.teacher_log_probs_NK[label], said[number]["top_log_probs"][2 * place : 2 * place + 2]
        )


def test_taught_questions_about_one_context_share_a_row_and_keep_what_the_teacher_said(teachings):
    ((micro_batch,), num_labels) = distillation(teachings, [[6, 7]]).micro_batches(0, 1000, tiny.PAD)
    separate, other = distillation(teachings, [[6, 0, 7]]).micro_batches(0, 1, tiny.PAD)
    assert micro_batch.inputs.row_E.tolist() == [0, 0] and len(separate) == 3
    apart = {int(one.places_E): one.inputs for one in separate}
    assert num_labels == other - len(apart[1].labels_N)
    for name in ("labels_N", "teacher_ids_NK", "teacher_log_probs_NK"):
        assert torch.equal(getattr(micro_batch.inputs, name), torch.cat([getattr(apart[n], name) for n in (0, 2)]))


def test_processes_share_a_step_and_have_equally_many_forwards(teachings):
    both = distillation(teachings, [[0, 1, 2, 3]])
    (one, num_one), (other, num_other) = (both.micro_batches(0, 1, tiny.PAD, rank, 2) for rank in (0, 1))
    (everything, num_all) = both.micro_batches(0, 1, tiny.PAD)
    assert num_one == num_other == num_all
    assert len(one) == len(other) == 2 and len(everything) == 4
    counted = sum(len(micro_batch.inputs.labels_N) for micro_batch in (*one, *other) if not micro_batch.idle)
    assert counted == num_all


def test_answers_of_other_questions_are_refused(teachings):
    said = list(tables.scan(tables.TEACHINGS.at(teachings / "teachings.parquet")))
    tables.write(tables.TEACHINGS.at(teachings / "teachings.parquet"), said[1:])
    with pytest.raises(ArtifactError, match=r"row 1 is of e1, in .*full.parquet of e0; run `dvc repro -f teach`"):
        distillation(teachings, [[0]])


BEST = AttentionTarget("top", top_k=1, temperature=1.0)


def test_full_views_have_the_target_that_their_scores_ask_for_and_masked_views_have_none(views: Path, monkeypatch):
    monkeypatch.chdir(views)
    batch = TrainingDataset([[0, 4]], *tables_of(views), target=BEST).batch(0, 1, tiny.PAD)
    inputs = {int(micro_batch.places_E[0]): micro_batch.inputs for micro_batch in batch.micro_batches}
    full = list(tables.scan(tables_of(views)[0]))
    for place, number in ((0, 0), (1, 5)):  # e4 is a test example
        best = number % 4
        assert inputs[place].target_EC.tolist() == [[float(chunk == best) for chunk in range(4)]]
        chunks = inputs[place].chunk_BL[0].tolist()
        tokens = range(full[number]["chunk_starts"][best], full[number]["chunk_ends"][best])
        assert [token for token, chunk in enumerate(chunks) if chunk == best] == list(tokens)
        assert set(chunks[full[number]["question_start"] :]) == {NO_CHUNK}
    assert inputs[2].target_EC is None and inputs[3].target_EC is None
    assert batch.num_full_views == 2


def test_full_views_are_counted_with_labels_and_for_distillation_over_all_processes(teachings, monkeypatch):
    monkeypatch.chdir(teachings)
    full = tables.FULL_VIEWS.at(teachings / "full.parquet")
    taught = DistillationDataset([[0, 1, 2, 5]], full, tables.TEACHINGS.at(teachings / "teachings.parquet"), BEST)
    both = TrainingDataset([[0, 3]], full, None, taught, target=BEST)
    assert [both.batch(0, 1, tiny.PAD, rank, 2).num_full_views for rank in (0, 1)] == [6, 6]
    assert TrainingDataset([[]], full, None, taught, target=BEST).batch(0, 1, tiny.PAD).num_full_views == 4
    numbers = {tuple(row["input_ids"][: row["prompt_end"]]): int(row["example_id"][1:]) for row in tables.scan(full)}
    found = []
    for micro_batch in both.batch(0, 1, tiny.PAD).distill:
        inputs = micro_batch.inputs
        found.append(numbers[tuple(inputs.input_ids_BL[0, : int(inputs.prompt_end_E[0])].tolist())])
        assert int(inputs.target_EC[0].argmax()) == found[-1] % 4
    assert sorted(found) == [0, 1, 2, 6]


def test_chunk_numbers_move_with_their_tokens(documents_apart, monkeypatch):
    monkeypatch.chdir(documents_apart)
    scores = tables.SCORES
    chunk_ids = [row["chunk_ids"] for row in tables.scan(tables_of(documents_apart)[0])]
    rows = [row | {"chunk_ids": ids} for row, ids in zip(tables.scan(scores), chunk_ids, strict=True)]
    tables.write(scores, rows)
    full, _ = tables_of(documents_apart)
    plain, mixed = (TrainingDataset([[0, 1]] * 4, full, None, None, seed, target=BEST) for seed in (None, 3))
    moved = 0
    for step in range(4):
        batches = (made.batch(step, 1, tiny.PAD).micro_batches for made in (plain, mixed))
        for one, other in zip(*batches, strict=True):
            assert torch.equal(one.inputs.target_EC, other.inputs.target_EC)
            for chunk in range(4):
                at, to = (made.inputs.chunk_BL[0] == chunk for made in (one, other))
                assert one.inputs.input_ids_BL[0][at].tolist() == other.inputs.input_ids_BL[0][to].tolist()
                moved += at.tolist() != to.tolist()
    assert moved > 4


def test_scores_of_other_chunks_or_examples_are_refused(views: Path, monkeypatch):
    monkeypatch.chdir(views)
    rows = list(tables.scan(tables.SCORES))
    tables.write(tables.SCORES, [*rows[:3], rows[3] | {"chunk_ids": list("abdc")}, *rows[4:]])
    with pytest.raises(ArtifactError, match=r"scores\.parquet: chunks of example e3 are not those in .*full\.parquet"):
        TrainingDataset([[0]], *tables_of(views), target=BEST)
    tables.write(tables.SCORES, rows[1:])
    with pytest.raises(ArtifactError, match="rows do not belong together"):
        TrainingDataset([[0]], *tables_of(views), target=BEST)
