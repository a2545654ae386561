"""The report's page: one HTML file that loads nothing; the templates escape all data.

This module fills the templates; they call charts.py, page_tables.py, text.py, ablation_table.py and focus_map.py where
a figure, a table or a sentence stands. To add one, write its function there and call it in a template.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from pipeline.common.tables import Row
from pipeline.evaluation.score import MEASURES
from pipeline.report import ablation_table, answer_browser, charts, focus_map, page_tables, svg, text
from pipeline.report.ablation_table import AblationTable
from pipeline.report.focus_map import FocusMap
from pipeline.report.summary import PAPER, Summary
from pipeline.report.text import Values

PAPER_ROWS = {"vanilla": "vanilla", "vanilla + retrieval": "retrieval", "focused": "focused"}
"""Row of the main table -> its name in summary.PAPER, for the rows that the paper has too."""


class PageData(NamedTuple):
    """All that the page shows; the templates use these names."""

    title: str
    summary: Summary
    curves: charts.Curves
    examples: Sequence[Row]
    """Made by answer_browser.assemble."""
    sources: Mapping[str, Values]
    """Figures of the other stages: prepare, retrieval, mask, analysis, base, ...; what is missing is not shown."""
    settings: Values
    surface: Sequence[Values]
    """Measures by number of documents and by share of distractors that share a name; without any, the page has no such
    section."""
    versions: Mapping[str, Mapping[str, str]]
    """Method -> library -> version, as its training recorded them."""
    inputs: Mapping[str, str]
    """Path -> md5 of the files that the page was made from."""
    laptop: AblationTable
    """Without rows, the page has no such section."""
    ablations: AblationTable
    map_of_focus: FocusMap


def render(shown: PageData) -> str:
    """Write the page as HTML; equal values give equal text."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalize,
        loader=jinja2.PackageLoader(__package__),
    )
    summary, settings = shown.summary, shown.settings
    methods = list(dict.fromkeys(row.method for row in summary.longest))
    return environment.get_template("page.html.j2").render(
        **{**shown._asdict(), "sources": defaultdict(dict, shown.sources)},
        ablation_table=ablation_table,
        focus_map=focus_map,
        charts=charts,
        page_tables=page_tables,
        text=text,
        split=settings.get("eval", {}).get("split", "test"),
        measure=MEASURES[summary.measure],
        shorter=[length.label() for length in summary.lengths[:-1]],
        by_group={(row.name, row.group): row for row in summary.by_length},
        methods=methods,
        colour_of=dict(zip(methods, svg.colours(methods), strict=True)),
        kinds=answer_browser.KINDS,
        paper=PAPER,
        paper_rows=PAPER_ROWS,
    )


def _finalize(value: Any) -> Any:
    """Prepare the value of a template's expression: None becomes a dash, control characters become visible."""
    if value is None:
        return text.NONE
    return text.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
