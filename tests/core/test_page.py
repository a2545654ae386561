"""The page: what it says with everything, with little, and with data that tries to be markup."""

import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest

from pipeline.core import grids, page, readings, summary, wording
from tests.core import test_claims
from tests.core.test_summary import answer

HOSTILE = "</p><script>alert(1)</script>{{ 7 * 7 }}{% raw %}</style>\"'&<b onclick=x>\x1b[31m\x00"


class Outline(HTMLParser):
    """Elements and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def contents(hostile: str = "", **changes: Any) -> page.Contents:
    hits = {"base": [0] * 12, "vanilla": [1, 0] * 6, "focused": [1, 1, 0] * 4}
    rows = [
        answer(f"q{index}/{length}", hit, method, given, length=length, position=index % 4, benchmark=f"made{hostile}")
        for method in hits
        for given in ("full", "retrieval")
        for length in (4, 8)
        for index, hit in enumerate(hits[method])
    ]
    reading = readings.Reading(
        example_id=f"q1{hostile}",
        method="focused",
        question=f"Where?{hostile}",
        answer_lead="",
        given=f"Lyon{hostile}",
        right=["Porto", f"Oporto{hostile}"],
        gold=[readings.Passage(2, [], [readings.Segment("In ", False), readings.Segment(f"Porto{hostile}", True)])],
        distractor=readings.Passage(
            1, [readings.Segment(f"Title{hostile}", False)], [readings.Segment(f"Lyon{hostile}", True)]
        ),
        context=[readings.Place(1, f"Title{hostile}", "holds the given answer"), readings.Place(2, "", "gold")],
        others=[readings.Answer("vanilla", f"Porto{hostile}", "correct")],
    )
    shares = {
        "num_examples": 12,
        "mean_chunks": 8.0,
        "recall": {"1": 0.5, "10": 1.0, "5": 0.75},
        "mrr": 0.7,
        "answer_retention": {"1": 0.6, "10": 1.0, "5": 0.8},
    }
    sources: dict[str, Any] = {
        "retrieval": {
            "retriever": {"kind": "bm25", "source": f"x{hostile}"},
            "splits": {"test": {"all": shares, "by_num_documents": {"8": shares}}},
            "collection": {"num_questions": 12, "num_chunks": 1234, "recall": {"1": 0.25}},
        },
        "mask": {"mode": "token", "top_k": 4, "splits": {"test": {"num_examples": 12, "gold_retained": 0.9}}},
        "analysis": {"num_examples": 9, "methods": {"focused": {"alignment": -0.25, "new": 1}, "base": {}}},
        "base": {"sha256": "ab" * 32, "revision": None},
        "prepare": {"benchmark": "made", "splits": {"test": 12}, "names": [f"n{hostile}", True]},
    }
    values: dict[str, Any] = {
        "title": f"A report{hostile}",
        "summary": summary.summarise(rows, resamples=100),
        "curves": {"focused": {"loss": [(5, 2.0), (10, 1.0)], "alignment": [(5, 0.1)], "alignment_others": [(5, 0.0)]}},
        "readings": [reading],
        "sources": sources,
        "settings": {"mask": {"top_k": 4, "mode": f"token{hostile}"}, "train": {"learning_rate": 0.003}},
    }
    return page.Contents(**{**values, **changes})


@pytest.fixture(scope="module")
def whole() -> str:
    return page.render(contents())


def test_the_first_things_on_the_page_are_title_sentence_and_main_table(whole: str):
    places = [
        whole.index(part)
        for part in (
            "<h1>A report</h1>",
            "With 8 documents in the context, these numbers",
            '<table class="main"',
            "<svg",
        )
    ]
    assert places == sorted(places)
    names = re.findall(r'<th scope="row"><span[^>]*></span>([^<]+)</th>', whole)
    assert names == [
        "base", "base + retrieval", "vanilla", "vanilla + retrieval", "focused", "focused + retrieval",
    ]  # fmt: skip


def test_it_loads_nothing_and_forbids_to(whole: str):
    outline = Outline(whole)
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in outline.attributes
    assert not outline.elements.keys() & {"script", "iframe", "object", "embed", "base", "form", "img"}
    for tag, name, value in outline.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("href", "src", "xlink:href"):
            assert value is not None and value.startswith(("#", "data:")), (tag, value)
    assert set(re.findall(r"https?://[^\s\"'<)]+", whole)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in whole and "url(" not in re.sub(r"url\(#[\w-]+\)", "", whole)


def test_every_id_stands_once_and_every_reference_has_its_id(whole: str):
    ids = re.findall(r'\bid="([^"]+)"', whole)
    assert [found for found, times in Counter(ids).items() if times > 1] == []
    references = set(re.findall(r'href="#([^"]+)"', whole)) | set(re.findall(r"url\(#([^)]+)\)", whole))
    references |= set(re.findall(r'aria-(?:labelledby|describedby)="([^"]+)"', whole))
    assert references <= set(ids)


def test_hostile_data_is_text_and_adds_no_element(whole: str):
    hostile = page.render(contents(HOSTILE))
    outline = Outline(hostile)
    assert outline.elements == Outline(whole).elements
    shown = HOSTILE.replace("\x1b", "␛").replace("\x00", "␀")
    assert outline.text.count(shown) == 18  # every place of `contents`, some of them shown more than once
    assert "\x1b" not in hostile and "\x00" not in hostile


def test_equal_contents_give_equal_bytes(whole: str):
    assert page.render(contents()) == whole


def test_answers_are_marked_and_the_context_is_folded_away(whole: str):
    assert 'In <mark class="right">Porto</mark>' in whole
    assert '<mark class="wrong">Lyon</mark>' in whole
    assert "<details><summary>2 documents in the context, 1 other answers</summary>" in whole
    assert "(no title)" in whole


def test_the_papers_figures_stand_beside_ours_with_the_warning(whole: str):
    text = " ".join(Outline(whole).text.split())
    assert "Our work here is not the same" in text
    for figure in ("47.17", "50.14", "51.39", "48.65", "59.62"):
        assert figure in text
    assert "Ours: made, 8 documents exact match 50.0 50.0 66.7".replace(" ", "") in text.replace(" ", "")


def test_settings_and_provenance_are_shown(whole: str):
    text = re.sub(r"\s+", " ", Outline(whole).text)
    for shown in ("mask.top_k 4", "train.learning_rate 0.003", "revision null", "ab" * 32, "names [n, true]"):
        assert shown.replace(" ", "") in text.replace(" ", ""), shown


def test_the_ablations_stand_by_groups_under_their_claim_and_hostile_ones_add_no_element():
    def outline(hostile: str) -> Outline:
        rows = [
            test_claims.row(method="vanilla", label=f"vanilla{hostile}"),
            test_claims.row(0.052, group=f"mask{hostile}", label=f"skip{hostile}"),
        ]
        return Outline(page.render(contents(ablations=test_claims.table(*rows, benchmark=f"made{hostile}"))))

    plain, hostile = outline(""), outline(HOSTILE)
    assert "Focused (skip) answers 63.4" in plain.text and "5.2 points more than vanilla" in plain.text
    assert plain.text.index("main", plain.text.index("Focused (skip)")) < plain.text.rindex("skip")
    assert ("section", "id", "ablations") in plain.attributes
    assert hostile.elements == plain.elements
    assert "<script>alert(1)</script>" in hostile.text


def test_a_page_with_little_to_show_says_so():
    rows = [answer(f"q{index}", 1, length=1, position=-1) for index in range(3)]
    text = page.render(
        contents(
            summary=summary.summarise(rows, resamples=100),
            curves={},
            readings=[],
            sources={},
            settings={},
            title="Bare",
        )
    )
    shown = " ".join(Outline(text).text.split())
    assert "nothing to compare yet" in shown
    assert "All contexts have 1 document: there is no curve to draw." in shown
    assert "The gold documents are not known or all stand in one place" in shown
    assert "No training curves were found" in shown
    assert "reports/retrieval.json and reports/mask.json hold no figures" in shown
    assert "reports/analysis.json holds no figures" in shown
    assert "No distraction errors on the full context with 1 document" in shown
    assert Outline(text).elements["svg"] == 1  # the kinds of error


def test_the_two_tables_of_retrieval_keep_k_and_splits_in_order():
    recall = {"10": 1.0, "1": 0.5, "5": None}
    shares = {"num_examples": 1200, "mean_chunks": 7.25, "recall": recall, "mrr": None}
    grid = grids.retrieval({"splits": {name: {"all": shares} for name in ("test", "extra", "train", "dev")}})
    assert grid.headings == ["Asked", "Chunks, mean", "Recall@1", "Recall@10"]
    assert [name.partition(",")[0] for name, _ in grid.rows] == ["train", "dev", "test", "extra"]
    assert grid.rows[0][1] == ["1,200", "7.2", "50.0", "100.0"]


def validated(retriever: str, words: int, recall: float | None) -> dict[str, Any]:
    known = recall is not None
    return {
        "retriever": retriever, "chunk_words": words, "split": "test", "num_gold_known": 12 * known, "mean_chunks": 8.0,
        "recall": {"1": recall, "5": recall}, "recall_interval": {"1": [0.1, 0.9], "5": [0.1, 0.9]} if known else {},
        "answer_retention": {"5": 0.5}, "truncated_chunks": 0.25 if retriever == "minilm" else None, "collection": None,
    }  # fmt: skip


def test_retrievers_are_compared_over_k_and_over_sizes_on_the_split_that_is_asked():
    rows = [validated(name, words, 0.5) for words in (200, 100) for name in ("minilm", "random")]
    found = {"measured_as": {"100": 100, "200": 200}, "rows": [*rows, {**rows[0], "split": "train"}]}
    settings = {"chunk": {"words": 200}, "eval": {"split": "test"}}
    text = page.render(contents(sources={"validation": found}, settings=settings))
    assert "Retrievers compared, chunks of 200 words" in text and "Best 5 chunks, by their size" in text
    grid = grids.validation(found, "test")
    assert [name for name, _ in grid.rows] == [
        "minilm, 100 words", "random, 100 words", "minilm, 200 words", "random, 200 words",
    ]  # fmt: skip
    assert grid.headings == [
        "Gold known", "Chunks, mean", "Recall@1", "Recall@5", "Answer@5", "Chunks truncated",
    ]  # fmt: skip
    assert grid.rows[0][1] == ["12", "8.0", "50.0", "50.0", "50.0", "25.0"]


def test_retrievers_on_data_without_gold_have_a_table_and_no_figure():
    found = {"measured_as": {"100": 100}, "rows": [validated("minilm", 100, None), validated("random", 100, None)]}
    text = page.render(contents(sources={"validation": found}))
    assert "Retrievers compared" in text and "chunks of 100 words" not in text
    assert [name for name, _ in grids.validation(found, "test").rows] == ["minilm", "random"]


def test_what_the_official_evaluator_prints_is_shown_where_there_is_one():
    figures = {"base": {"accuracy_likeliest": 0.25, "sat_style_likeliest": -0.125, "num_hard": 1200, "hard": None}}
    grid = grids.official(figures)
    assert grid.headings == ["Accuracy likeliest", "SAT-style likeliest", "Questions, hard"]
    assert grid.rows == [("base", ["25.0", f"{wording.MINUS}12.5", "1,200"])]
    assert grids.official({"base": {}, "vanilla": {}}) == grids.Grid([], [])


def test_a_row_that_lacks_a_figure_has_a_dash():
    grid = grids.analysis({"methods": {"later": {"uniformity": -1.5}, "focused": {"alignment": 0.875}, "base": {}}})
    assert grid.headings == ["Cosine, own views", "Uniformity"]
    assert grid.rows == [
        ("base", [wording.NONE, wording.NONE]),
        ("focused", ["0.88", wording.NONE]),
        ("later", [wording.NONE, f"{wording.MINUS}1.50"]),
    ]
