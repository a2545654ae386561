"""The page's small tables: their columns, the order of their rows, and what a gap looks like."""

from typing import Any

import pytest

from pipeline.report import page_tables, text
from pipeline.report.page_tables import PageTable
from tests.report.test_charts import analysis
from tests.stages import made_results

MINUS, NONE = text.MINUS, text.NONE


def test_the_two_tables_of_retrieval_keep_k_and_splits_in_order():
    recall = {"10": 1.0, "1": 0.5, "5": None}
    shares = {"num_examples": 1200, "mean_chunks": 7.25, "recall": recall, "mrr": None}
    table = page_tables.retrieval({"splits": {name: {"all": shares} for name in ("test", "extra", "train", "dev")}})
    assert table.headings == ["Questions", "Chunks, mean", "Recall@1", "Recall@10"]
    assert [name.partition(",")[0] for name, _ in table.rows] == ["train", "dev", "test", "extra"]
    assert table.rows[0][1] == ["1,200", "7.2", "50.0", "100.0"]


def test_what_says_nothing_of_the_retriever_is_shown_where_there_is_some():
    shares = {"num_examples": 9, "recall": {"1": 0.5}, "num_only_gold": 0, "num_equal_scores": 0}
    splits = {"train": {"all": shares}, "test": {"all": {**shares, "num_equal_scores": 3}}}
    table = page_tables.retrieval({"splits": splits})
    assert table.headings == ["Questions", "Recall@1", "Equal scores"]
    assert [cells[-1] for _, cells in table.rows] == [NONE, "3"]
    masks = {"splits": {"train": {"num_examples": 9, "num_whole": 2, "num_only_gold": 0}}}
    assert page_tables.by_split(masks, page_tables.MASK).headings == ["Examples", "Nothing masked"]


def validated(retriever: str, words: int, recall: float | None) -> dict[str, Any]:
    known = recall is not None
    return {
        "retriever": retriever, "chunk_words": words, "split": "test", "num_gold_known": 12 * known, "mean_chunks": 8.0,
        "recall": {"1": recall, "5": recall}, "recall_interval": {"1": [0.1, 0.9], "5": [0.1, 0.9]} if known else {},
        "answer_retention": {"5": 0.5}, "truncated_chunks": 0.25 if retriever == "minilm" else None, "collection": None,
    }  # fmt: skip


def test_retrievers_are_compared_at_each_size_without_what_all_rows_share():
    rows = [validated(name, words, 0.5) for words in (200, 100) for name in ("minilm", "random")]
    found = {"measured_as": {"100": 100, "200": 200}, "rows": [*rows, {**rows[0], "split": "train"}]}
    table, constants = page_tables.validation(found, "test")
    assert [name for name, _ in table.rows] == [
        "minilm, 100 words", "random, 100 words", "minilm, 200 words", "random, 200 words",
    ]  # fmt: skip
    assert table.headings == ["Chunks truncated", "Recall@1", "Recall@5", "Answer@5"]
    assert table.rows[0][1] == ["25.0", "50.0", "50.0", "50.0"]
    assert table.rows[1][1][0] == NONE
    assert constants == ["Gold known 12", "Chunks, mean 8.0"]


def test_sizes_that_cut_all_documents_alike_are_named_together():
    rows = [validated(name, 100, 0.5) for name in ("minilm", "random")]
    found = {"measured_as": {"100": 100, "200": 100, "300": 100}, "rows": rows}
    assert [name for name, _ in page_tables.validation(found, "test")[0].rows] == ["minilm", "random"]
    rows += [validated(name, 200, 0.25) for name in ("minilm", "random")]
    found = {"measured_as": {"100": 100, "200": 200, "300": 200}, "rows": rows}
    assert [name for name, _ in page_tables.validation(found, "test")[0].rows][2:] == [
        "minilm, 200 and 300 words", "random, 200 and 300 words",
    ]  # fmt: skip


def test_what_the_official_evaluator_prints_is_shown_where_there_is_one():
    figures = {"base": {"accuracy_likeliest": 0.25, "sat_style_likeliest": -0.125, "num_hard": 1200, "hard": None}}
    table = page_tables.official(figures)
    assert table.headings == ["Accuracy likeliest", "SAT-style likeliest", "Questions, hard"]
    assert table.rows == [("base", ["25.0", f"{text.MINUS}12.5", "1,200"])]
    assert page_tables.official({"base": {}, "vanilla": {}}) == PageTable([], [])


def test_a_row_that_lacks_a_figure_has_a_dash():
    table = page_tables.by_method(
        {"methods": {"later": {"uniformity": -1.5}, "focused": {"alignment": 0.875}, "base": {}}}, page_tables.VIEWS
    )
    assert table.headings == ["Cosine, own views", "Uniformity"]
    assert table.rows == [
        ("base", [text.NONE, text.NONE]),
        ("focused", ["0.88", text.NONE]),
        ("later", [text.NONE, f"{text.MINUS}1.50"]),
    ]


def test_the_tables_by_literal_cells():
    found = analysis()
    matched = page_tables.matching(found)
    assert matched.headings == ["Own question", "Shuffled questions", "One for all", "Same context"]
    assert [name for name, _ in matched.rows] == ["base", "focused", "later", "by chance"]
    assert (matched.rows[0][1][0], matched.rows[-1][1][0]) == ("50.0 [45.0, 55.0]", "2.0")
    assert page_tables.by_method(found, page_tables.OUTCOMES, "outcomes").rows[0] == ("base", ["25.0 [20.0, 30.0]"] * 4)
    bias = page_tables.slopes(found)
    attention = f"{MINUS}25.0 [{MINUS}30.0, {MINUS}20.0]"
    assert bias.rows[0] == ("base", ["+20.0 [+15.0, +25.0]", attention])
    assert bias.rows[2][1][0] == f"+0.0 [{MINUS}5.0, +5.0]"  # `later`, the first of the file


def test_answers_put_there_by_hand_have_a_bias_without_a_network():
    found = analysis(answers={"by-hand": made_results.answered(1, 12)})
    assert page_tables.slopes(found).rows == [("by-hand", ["+10.0 [+5.0, +15.0]"])]


def test_gold_tokens_out_of_reach_are_shown_by_layer_if_there_are_any():
    hidden = analysis(methods={"base": made_results.inside(12, out_of_reach=1.0)})
    assert page_tables.reach(hidden).rows == [
        ("1", [NONE, "0.0", "50"]), ("2", ["256", "100.0", "50"]), ("3", [NONE, "0.0", "50"]),
    ]  # fmt: skip
    assert page_tables.reach(analysis()) == PageTable([], [])


@pytest.mark.parametrize(
    "found",
    [{}, {"methods": {"base": {}}, "answers": {}}, {"methods": {"base": {"attention": None, "matching": None}}}],
)
def test_an_analysis_that_lacks_everything_has_no_table(found: dict[str, Any]):
    for table in (page_tables.matching, page_tables.slopes, page_tables.reach):
        assert table(found) == PageTable([], [])
    assert page_tables.by_method(found, page_tables.VIEWS) == PageTable([], [])
    assert page_tables.by_method(found, page_tables.OUTCOMES, "outcomes") == PageTable([], [])
