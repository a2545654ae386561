"""The report's page: one HTML file that loads nothing; the templates escape all data.

This module fills the templates; they call charts.py, page_tables.py, text.py, ablation_table.py and focus_map.py where
a figure, a table or a sentence stands. To add one, write its function there and call it in a template.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

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


def render(
    *,
    title: str,
    summary: Summary,
    curves: charts.Curves,
    examples: Sequence[Row],
    sources: Mapping[str, Values],
    settings: Values,
    surface: Sequence[Values],
    versions: Mapping[str, Mapping[str, str]],
    inputs: Mapping[str, str],
    ablations: AblationTable,
    map_of_focus: FocusMap,
) -> str:
    """Write the page as HTML; equal arguments give equal text.

    Args:
        examples: as answer_browser.assemble makes them.
        sources: what the other stages measured: prepare, retrieval, mask, analysis, base, ...; what is missing is not
            shown.
        surface: measures by number of documents and by share of distractors that share a name; without any, the page
            has no such section.
        versions: method -> library -> version, as its training recorded them.
        inputs: path -> md5 of the files that the page was made from.
    """
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
        loader=jinja2.PackageLoader(__package__),
    )
    methods = list(dict.fromkeys(row.method for row in summary.longest))
    return environment.get_template("page.html.j2").render(
        ablation_table=ablation_table,
        focus_map=focus_map,
        charts=charts,
        page_tables=page_tables,
        text=text,
        title=title,
        summary=summary,
        curves=curves,
        examples=examples,
        sources=defaultdict(dict, sources),
        settings=settings,
        surface=surface,
        versions=versions,
        inputs=inputs,
        ablations=ablations,
        map_of_focus=map_of_focus,
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


def _shown(value: Any) -> Any:
    """Prepare the value of a template's expression: None becomes a dash, control characters become visible."""
    if value is None:
        return text.NONE
    return text.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
