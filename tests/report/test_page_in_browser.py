"""The page in a real browser: first screen, filters, phone, dark, print, and data that tries to be markup."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.stages import report
from tests.conftest import ROOT
from tests.report import browser
from tests.report.contrast import contrast
from tests.stages import made_results

pytestmark = pytest.mark.skipif(browser.FOUND is None, reason="no Chromium here: the page is not opened in a browser")

HOSTILE = "<script>alert(1)</script></style>\"'&|{{ 7 * 7 }}\x1b[31m\x00"
KINDS = ("correct", "distraction", "other")
FOUR = {"base": 0.2, "vanilla": 1.3, "focused": 1.75, "later": 1.5}


def made(root: Path, **how: Any) -> Path:
    """The page of a made-up run, by the stage itself."""
    made_results.write(root, **how)
    shutil.copytree(ROOT / "conf", root / "conf")
    params = (ROOT / "params.yaml").read_text()
    title = json.dumps(f"Focused learning{how.get('hostile', '')}")
    params = params.replace("\neval:\n", "\neval:\n  bootstrap_resamples: 100\n")
    (root / "params.yaml").write_text(params.replace("title: Focused learning", f"title: {title}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", ["report"])
        report.main()
    return root / "reports/index.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of four methods, one more than the paper has."""
    return made(tmp_path_factory.mktemp("page"), skill=FOUR)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    with browser.Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def bottom(chromium: browser.Browser, selector: str) -> float:
    found: float = chromium.evaluate(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().bottom")
    return found


def shown(chromium: browser.Browser) -> list[int]:
    """Which examples are visible, by their place."""
    found: list[int] = chromium.evaluate(
        """[...document.querySelectorAll('#answers article')].flatMap((it, place) =>
        it.checkVisibility() ? [place] : [])"""
    )
    return found


def kinds(chromium: browser.Browser) -> list[dict[str, str]]:
    """Of every example, what each method did on the full context, as it stands in the table of answers."""
    found: list[dict[str, str]] = chromium.evaluate(
        """[...document.querySelectorAll('#answers article')].map(it => Object.fromEntries(
        [...it.querySelectorAll('table.answers tr[data-method]')].map(row =>
        [row.cells[0].textContent, row.cells[2].textContent])))"""
    )
    return found


def test_question_answer_and_picture_are_on_the_first_screen_and_the_table_begins_there(
    chromium: browser.Browser, page: Path
):
    chromium.open(page, width=1280, height=800)
    assert bottom(chromium, ".first p") < bottom(chromium, ".lead") < bottom(chromium, ".first svg") < 450
    assert bottom(chromium, "table.main tbody tr") < 600
    chromium.open(page, width=400, height=800)
    assert bottom(chromium, ".lead") < 550  # the picture is below it
    chromium.open(page, width=1280, height=800)
    right = chromium.evaluate(
        "Math.max(...[...document.querySelectorAll('td.paper')].map(it => it.getBoundingClientRect().right))"
    )
    assert right < 1280  # the paper's columns are not scrolled away
    text = chromium.evaluate("document.querySelector('table.main').innerText")
    assert all(figure in text for figure in ("47.17", "50.14", "51.39", "48.65", "59.62"))


@pytest.mark.parametrize("dark", [False, True])
def test_the_console_is_silent_and_nothing_is_loaded(chromium: browser.Browser, page: Path, dark: bool):
    chromium.open(page, dark=dark)
    assert chromium.console == []
    assert [url for url in chromium.requests if not url.startswith("data:")] == [page.resolve().as_uri()]


def test_a_script_in_the_page_would_be_stopped_and_heard_of(chromium: browser.Browser, page: Path, tmp_path: Path):
    trap = tmp_path / "trap.html"
    tries = '<script>document.title="run"</script><img src="http://127.0.0.1:9/x.png">'
    trap.write_text(page.read_text().replace("</body>", f"{tries}</body>"))
    chromium.open(trap)
    assert "Content Security Policy" in "".join(chromium.console)
    assert chromium.evaluate("document.title") == "Focused learning"


@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
def test_the_page_does_not_scroll_sideways_and_nothing_is_cut(chromium: browser.Browser, page: Path, width: int):
    chromium.open(page, width=width, height=844)
    chromium.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true })")
    assert chromium.evaluate("document.documentElement.scrollWidth") == width
    outside = chromium.evaluate(
        """[...document.querySelectorAll('body *')].filter(it => it.getBoundingClientRect().right > innerWidth + 0.5
        && !it.parentElement.closest('.wide')).map(it => it.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    if width >= 1280:  # there is room for every table
        scrolling = "[...document.querySelectorAll('.wide')].filter(it => it.scrollWidth > it.clientWidth).length"
        assert chromium.evaluate(scrolling) == 0


def test_filters_show_what_they_say(chromium: browser.Browser, page: Path):
    chromium.open(page)
    found = kinds(chromium)
    everything = list(range(len(found)))
    assert len(found) == 40 and shown(chromium) == everything
    assert set(found[0]) == set(FOUR)
    names = ["any", *sorted(FOUR, key=["base", "vanilla", "focused", "later"].index)]
    for method, name in enumerate(names):
        for kind, wanted in enumerate(["any", *KINDS]):
            chromium.click(f"#method-{method}")
            chromium.click(f"#kind-{kind}")
            expected = [
                place
                for place, of in enumerate(found)
                if wanted == "any" or wanted in (of.values() if name == "any" else [of[name]])
            ]
            assert shown(chromium) == expected, (name, wanted)
            if name != "any" and wanted != "any":
                assert 0 < len(expected) < 40, (name, wanted)  # so that the filter is seen to filter


def test_filters_work_from_the_keyboard(chromium: browser.Browser, page: Path):
    chromium.open(page)
    found = kinds(chromium)
    chromium.evaluate("document.querySelector('#kind-0').focus()")
    chromium.press("ArrowRight", 39)
    assert chromium.evaluate("document.querySelector('#kind-1').checked")
    assert shown(chromium) == [place for place, of in enumerate(found) if "correct" in of.values()]


def test_the_number_of_examples_shown_is_counted(chromium: browser.Browser, page: Path):
    """CSS counters have no value to ask for; the accessibility tree reads what the person reads."""
    chromium.open(page)
    chromium.click("#method-3")
    chromium.click("#kind-2")
    wanted = sum(of["focused"] == "distraction" for of in kinds(chromium))
    nodes = chromium.call("Accessibility.getFullAXTree")["nodes"]
    texts = "".join(node["name"]["value"] for node in nodes if node.get("role", {}).get("value") == "StaticText")
    assert f"{wanted} of 40 examples shown" in texts


def test_data_is_text_wherever_it_stands(chromium: browser.Browser, tmp_path: Path):
    """Titles, questions, documents, answers, the title of the page and, here, the name of a method."""
    hostile_method = {"base": 0.2, "vanilla": 1.3, "focused": 1.75, "<script>alert(2)<": 1.5}
    path = made(tmp_path / "hostile", hostile=HOSTILE, skill=hostile_method)
    chromium.open(path)
    assert chromium.console == []
    assert chromium.evaluate("document.scripts.length") == 0
    text = chromium.evaluate("document.body.textContent")
    assert text.count("<script>alert(1)</script>") > 100 and "{{ 7 * 7 }}" in text and "<script>alert(2)<" in text
    assert chromium.evaluate("document.title").startswith("Focused learning<script>alert(1)</script>")
    every = chromium.evaluate("[...document.querySelectorAll('*')].flatMap(it => it.getAttributeNames())")
    assert not [name for name in set(every) if name.startswith("on")]


def test_text_has_contrast_in_both_themes(chromium: browser.Browser, page: Path):
    """Ink and muted ink on paper, on the soft ground and on both marks: WCAG 2 AA, 4.5 to 1."""
    for dark in (False, True):
        chromium.open(page, dark=dark)
        colours = chromium.evaluate(
            """Object.fromEntries(['paper', 'ink', 'muted', 'soft', 'right', 'wrong'].map(name =>
            [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()]))"""
        )
        pairs = [("ink", ground) for ground in ("paper", "soft", "right", "wrong")]
        for ink, ground in [*pairs, ("muted", "paper"), ("muted", "soft")]:
            assert contrast(colours[ink], colours[ground]) >= 4.5, (dark, ink, ground)


def test_print_has_every_section_and_no_controls(chromium: browser.Browser, page: Path, tmp_path: Path):
    chromium.open(page, dark=True)
    chromium.call("Emulation.setEmulatedMedia", media="print")
    assert not chromium.evaluate("document.querySelector('.filter').checkVisibility()")
    assert not chromium.evaluate("document.querySelector('nav').checkVisibility()")
    white = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    assert white == "rgb(255, 255, 255)"
    chromium.call("Emulation.setEmulatedMedia", media="")
    printed = chromium.pdf()
    assert printed.startswith(b"%PDF-") and 8 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") <= 30
