"""The page: what it says with everything, with little, and with data that tries to be markup."""

import html
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from pipeline.report import page
from pipeline.report.ablation_table import AblationTable
from pipeline.report.focus_map import FocusMap
from pipeline.report.text import NONE
from tests.report import test_ablation_table, test_focus_map
from tests.report.test_page_tables import validated
from tests.report.test_summary import answer, summarised

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


def render(hostile: str = "", **changes: Any) -> str:
    """Render a page with everything; `hostile` is appended to every text of unknown origin."""
    hits = {"base": [0] * 12, "vanilla": [1, 0] * 6, "focused": [1, 1, 0] * 4}
    rows = [
        answer(f"q{index}/{length}", hit, method, given, length=length, position=index % 4, benchmark=f"made{hostile}")
        for method in hits
        for given in ("full", "retrieval")
        for length in (4, 8)
        for index, hit in enumerate(hits[method])
    ]

    def given(method: str, reads: str, text: str, note: str, kind: str) -> dict[str, str]:
        name = method if reads == "full" else f"{method} + {reads}"
        return {"name": name, "method": method, "input": reads, "text": text, "note": note, "kind": kind}

    example = {
        "example_id": f"q1{hostile}",
        "question": f"Where?{hostile}",
        "options": [(f"(A) Porto{hostile}", True), ("(B) Lyon", False)],
        "answer_lead": "",
        "right": ["Porto", f"Oporto{hostile}"],
        "answers": [
            given("vanilla", "full", f"Porto{hostile}", f"wrote{hostile}", "correct"),
            given("focused", "full", f"Lyon{hostile}", "", "distraction"),
            given("focused", "retrieval", "", "", "other"),
        ],
        "context": [
            {
                "position": 1,
                "title": [(f"Title{hostile}", "")],
                "text": [(f"Lyon{hostile}", "wrong")],
                "gold": False,
                "kept": True,
                "answered_by": ["focused"],
            },
            {
                "position": 2,
                "title": [],
                "text": [("In ", ""), (f"Porto{hostile}", "right")],
                "gold": True,
                "kept": False,
                "answered_by": [],
            },
            {
                "position": 3,
                "title": [],
                "text": [(f"Else{hostile}", "")],
                "gold": False,
                "kept": False,
                "answered_by": [],
            },
        ],
    }
    cell = {"mean": 0.5, "low": 0.25, "high": 0.75}
    surface = [
        {"method": f"focused{hostile}", "input": "full", "num_documents": length, "name_sharing_rate": rate,
         "num_examples": 12, "score": cell, "distraction_rate": cell}
        for length in (4, 8)
        for rate in (0.0, 0.5)
    ]  # fmt: skip
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
        "summary": summarised(rows, resamples=100),
        "curves": {"focused": {"loss": [(5, 2.0), (10, 1.0)], "alignment": [(5, 0.1)], "alignment_others": [(5, 0.0)]}},
        "examples": [example],
        "sources": sources,
        "settings": {"mask": {"top_k": 4, "mode": f"token{hostile}"}, "train": {"learning_rate": 0.003}},
        "surface": surface,
        "versions": {"vanilla": {"torch": f"2.0{hostile}"}, "focused": {"torch": f"2.0{hostile}"}},
        "inputs": {f"data/made{hostile}": "cd" * 16},
        "laptop": AblationTable(rows=[]),
        "ablations": AblationTable(rows=[]),
        "map_of_focus": FocusMap(cells=[]),
    }
    return page.render(page.PageData(**{**values, **changes}))


@pytest.fixture(scope="module")
def whole() -> str:
    return render()


def test_the_first_things_on_the_page_are_title_question_answer_picture_and_main_table(whole: str):
    places = [
        whole.index(part)
        for part in (
            "<h1>A report</h1>",
            "The question: ",
            "With 8 documents in the context, there is no significant",
            "<figcaption>Exact match over 8 documents</figcaption><svg",
            '<table class="main"',
            '<section id="length"',
            '<section id="glossary"',
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
    references |= {
        name for found in re.findall(r'aria-(?:labelledby|describedby)="([^"]+)"', whole) for name in found.split()
    }
    assert references <= set(ids)


def test_hostile_data_is_text_and_adds_no_element(whole: str):
    hostile = render(HOSTILE)
    outline = Outline(hostile)
    assert outline.elements == Outline(whole).elements
    shown = HOSTILE.replace("\x1b", "␛").replace("\x00", "␀")
    assert outline.text.count(shown) == 25  # every place of `render`, some of them shown more than once
    assert "\x1b" not in hostile and "\x00" not in hostile


def test_equal_arguments_give_equal_bytes(whole: str):
    assert render() == whole


def test_answers_are_marked_and_other_documents_are_folded_away(whole: str):
    assert 'In <mark class="right">Porto</mark>' in whole
    assert '<mark class="wrong">Lyon</mark>' in whole
    assert "<details><summary>3 · (no title)</summary>" in whole
    text = " ".join(Outline(whole).text.split())
    assert "1 · Title kept holds the answer of focused Lyon" in text and "2 · (no title) gold In Porto" in text
    assert "(A) Porto" in text and "generated: wrote" in text and "focused + retrieval(nothing)other" in text


def test_what_the_filters_ask_for_is_written_on_every_example(whole: str):
    """Methods and kinds are counted from 1: vanilla (2) was right (1), focused (3) made a distraction error (2)."""
    assert 'data-kinds="1 2-1 2 3-2"' in whole
    for method, kind in ((1, 1), (2, 1), (3, 2), (3, 3)):
        chosen = f"#answers:has(#method-{method}:checked):has(#kind-{kind}:checked)"
        assert f'{chosen} article:not([data-kinds~="{method}-{kind}"])' in whole
    assert whole.count('type="radio"') == 4 + 4


def test_headings_are_in_order_and_every_table_names_its_columns_and_rows(whole: str):
    levels = [int(level) for level in re.findall(r"<h(\d)\b", whole)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    outline = Outline(whole)
    scopes = Counter(value for tag, name, value in outline.attributes if (tag, name) == ("th", "scope"))
    assert scopes.total() == outline.elements["th"]
    for table in re.findall(r"<table.*?</table>", whole, re.DOTALL):
        assert 'scope="col"' in table and 'scope="row"' in table
    assert outline.elements["figcaption"] == outline.elements["svg"] == whole.count('role="img"')


def test_the_papers_figures_stand_in_the_main_table_beside_ours_with_the_warning(whole: str):
    table = whole[whole.index('<table class="main"') : whole.index("</table>")]
    cells = {
        re.sub("<[^>]+>", "", row.partition("</th>")[0]).strip(): re.findall(r'<td class="paper[^>]*>([^<]*)<', row)
        for row in table.partition("<tbody>")[2].split("</tr>")
    }
    assert cells["vanilla"] == ["47.17", "48.65"]
    assert cells["vanilla + retrieval"] == ["50.14", NONE]
    assert cells["focused"] == ["51.39", "59.62"]
    assert cells["base"] == cells["focused + retrieval"] == [NONE] * 2
    text = " ".join(Outline(whole).text.split())
    assert "QuALITY accuracy" in text and "This run uses another model and other data" in text


def test_on_a_benchmark_of_the_paper_the_warning_does_not_say_that_the_data_differ():
    rows = [
        answer(f"q{index}", 1, method, benchmark="quality") for index in range(3) for method in ("vanilla", "focused")
    ]
    text = render(summary=summarised(rows, resamples=100), examples=[])
    assert "Even on the same benchmark this run differs from the paper" in text and "other data" not in text


def test_the_surface_has_a_map_for_each_method_and_measure_and_no_section_without_rows(whole: str):
    shown = whole[whole.index('<section id="surface">') :].partition("</section>")[0]
    assert re.findall("<h3>(.*?)</h3>", shown) == ["Exact match", "Distraction errors"]
    assert shown.count("<svg") == 2 and shown.count(f">25{NONE}75</text>") == 8
    assert "Difficulty of the context" not in render(surface=[])


def test_settings_and_provenance_are_shown(whole: str):
    text = re.sub(r"\s+", " ", Outline(whole).text)
    for shown in (
        "Versions that trained vanilla and focused torch 2.0",
        "data/made" + "cd" * 16,
        "mask.top_k 4",
        "train.learning_rate 0.003",
        "revision null",
        "ab" * 32,
        "names [n, true]",
    ):
        assert shown.replace(" ", "") in text.replace(" ", ""), shown


def test_the_ablations_stand_by_groups_under_their_claim_and_hostile_ones_add_no_element():
    def outline(hostile: str) -> Outline:
        rows = [
            test_ablation_table.row(method="vanilla", label=f"vanilla{hostile}"),
            test_ablation_table.row(0.052, group=f"mask{hostile}", label=f"skip{hostile}"),
        ]
        return Outline(render(ablations=test_ablation_table.table(*rows, benchmark=f"other{hostile}")))

    plain, hostile = outline(""), outline(HOSTILE)
    assert "Focused (skip) answers 63.4" in plain.text and "5.2 points more than vanilla" in plain.text
    assert plain.text.index("main", plain.text.index("Focused (skip)")) < plain.text.rindex("skip")
    assert ("section", "id", "ablations") in plain.attributes
    assert hostile.elements == plain.elements
    assert "<script>alert(1)</script>" in hostile.text


def test_a_grid_of_other_data_is_told_apart_from_this_run():
    def section(benchmark: str) -> str:
        found = test_ablation_table.table(test_ablation_table.row(), benchmark=benchmark)
        return render(ablations=found).partition('<section id="ablations"')[2].partition("</section>")[0]

    assert "These figures are of elsewhere, not of the data of this run (made)." in section("elsewhere")
    assert "not of the data of this run" not in section("made")


def test_a_real_model_stands_before_all_other_figures_with_a_table_for_each_length(whole: str):
    rows = [test_ablation_table.row(method="vanilla", label="vanilla"), test_ablation_table.row(0.052)]
    short = test_ablation_table.table(*rows, num_documents=5, min_documents=5)
    found = test_ablation_table.table(*rows, num_documents=20, min_documents=20, shorter=[short])
    shown = render(laptop=found)
    section = shown.partition('<section id="laptop"')[2].partition("</section>")[0]
    assert section.count("<table") == section.count("<svg") == 2 and "<h3>Over 5 documents</h3>" in section
    assert shown.index('id="laptop"') < shown.index('id="length"') < shown.index('id="ablations"')
    assert 'href="#laptop"' in shown and "laptop" not in whole


def test_the_map_stands_below_its_sentence_and_without_cells_the_page_says_how_to_make_it(whole: str):
    found = test_focus_map.whole(c50_8_0=test_focus_map.cell(0.08, 0.003, name_sharing_rate=0.0))
    shown = render(map_of_focus=found).partition('<section id="map">')[2].partition("</section>")[0]
    assert shown.count("<svg") == 3
    plain = Outline(shown).text.replace("\N{NO-BREAK SPACE}", " ")
    assert plain.index("After correction for 60 comparisons") < plain.index("Labelled questions")
    assert "in 1 of 60 cells (50 labelled questions over 8 documents with 0 % sharing a name); the best cell" in plain
    assert "All models are trained on the same contexts, those of the default run" in plain
    empty = whole.partition('<section id="map">')[2].partition("</section>")[0]
    assert "<svg" not in empty and "<code>make map</code> runs the grid of conf/map.yaml" in empty


def test_a_page_with_little_to_show_says_so():
    rows = [answer(f"q{index}", 1, length=1, position=-1) for index in range(3)]
    text = render(
        summary=summarised(rows, resamples=100),
        curves={},
        examples=[],
        sources={},
        settings={},
        surface=[],
        versions={},
        inputs={},
        title="Bare",
    )
    shown = " ".join(Outline(text).text.split())
    assert "nothing to compare yet" in shown
    assert "All contexts have 1 document: there is no curve to draw." in shown
    assert "The gold documents are not known, or all are in the same position" in shown
    assert "No training curves were found" in shown
    assert "reports/retrieval.json and reports/mask.json hold no figures" in shown
    assert "reports/analysis.json holds no figures" in shown
    assert "No answers on the full context with 1 document to show." in shown
    assert "Versions" not in shown and "Made from" not in shown
    assert Outline(text).elements["svg"] == 2  # the scores, and the kinds of error


def test_every_figure_says_how_to_read_it(whole: str):
    sections = re.findall(r'<section id="(\w+)".*?</section>', whole, re.DOTALL)
    drawn = [
        name for name in sections if "<svg" in whole.partition(f'<section id="{name}"')[2].partition("</section>")[0]
    ]
    assert len(drawn) >= 6
    for name in drawn:
        assert "How to read this." in whole.partition(f'<section id="{name}"')[2].partition("</section>")[0], name
    assert "How to read this." in whole.partition("<nav")[0]


def test_retrievers_are_compared_over_k_and_over_sizes_on_the_split_that_is_asked():
    rows = [validated(name, words, 0.5) for words in (200, 100) for name in ("minilm", "random")]
    found = {"measured_as": {"100": 100, "200": 200}, "rows": [*rows, {**rows[0], "split": "train"}]}
    settings = {"chunk": {"words": 200}, "eval": {"split": "test"}}
    text = render(sources={"validation": found}, settings=settings)
    assert "Retrievers compared, chunks of 200 words" in text and "Best 5 chunks, by their size" in text
    assert "In all rows: Gold known 12; Chunks, mean 8.0." in text
    assert "are the same here" not in text


def test_contexts_that_say_nothing_and_cut_questions_are_explained_where_there_are_some(whole: str):
    notes = ("contexts in which every chunk is gold", "prefers no chunk", "questions that are longer")
    assert not any(note in whole for note in notes)
    shares = {"num_examples": 12, "recall": {"1": 0.5}, "mrr": 0.7, "num_only_gold": 3, "num_equal_scores": 2}
    shares["answer_retention"] = {"1": 0.6}
    quality = {"encoder": {"truncated_questions": 5}, "splits": {"test": {"all": shares, "by_num_documents": {}}}}
    shown = render(sources={"retrieval": quality})
    assert all(note in shown for note in notes) and "cuts 5 questions" in shown


def test_sizes_that_cut_all_documents_alike_are_named_together_and_explained():
    rows = [validated(name, 100, 0.5) for name in ("minilm", "random")]
    found = {"measured_as": {"100": 100, "200": 100, "300": 100}, "rows": rows}
    text = render(sources={"validation": found}, settings={"chunk": {"words": 200}})
    assert "Retrievers compared, chunks of 200 words" in text and "chunks of 100 words" not in text
    assert "Chunks of 100, 200 and 300 words are the same here" in text
    rows += [validated(name, 200, 0.25) for name in ("minilm", "random")]
    found = {"measured_as": {"100": 100, "200": 200, "300": 200}, "rows": rows}
    assert "Chunks of 200 and 300 words are the same" in render(sources={"validation": found})


def test_retrievers_on_data_without_gold_have_a_table_and_no_figure():
    found = {"measured_as": {"100": 100}, "rows": [validated("minilm", 100, None), validated("random", 100, None)]}
    text = render(sources={"validation": found})
    assert "Retrievers compared" in text and "chunks of 100 words" not in text


def test_guided_learning_has_a_figure_of_each_of_its_divergences():
    points = [(5, 2.0), (10, 1.0)]
    shown = html.unescape(render(curves={"guided": {"distill": points, "attention": points}}))
    for title in ("Divergence from the teacher", "Divergence of attention from the retriever's target"):
        assert f"<figcaption>{title}</figcaption>" in shown
    assert "Guided learning brings two divergences down" in shown
    assert "Guided learning" not in render()
