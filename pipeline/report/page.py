"""The report's page: one HTML file that loads nothing; the templates escape all data.

This module says what goes into the page; page.html.j2 says where.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.evaluation.score import MEASURES
from pipeline.report import ablation_table, answer_browser, charts, page_tables, summary, svg, text
from pipeline.report.ablation_table import AblationTable
from pipeline.report.answer_browser import ShownExample
from pipeline.report.summary import Summary
from pipeline.report.text import Values

PAPER_ROWS = {"vanilla": "vanilla", "vanilla + retrieval": "retrieval", "focused": "focused"}
"""Row of the main table -> its name in summary.PAPER, for the rows that the paper has too."""


@dataclass(frozen=True)
class Contents:
    """Everything the page shows."""

    title: str
    summary: Summary
    curves: charts.Curves
    examples: Sequence[ShownExample]
    sources: Mapping[str, Any]
    """What the other stages measured: prepare, retrieval, mask, analysis, base, ...; what is missing is not shown."""
    settings: Values
    surface: Sequence[Values] = ()
    """Measures by number of documents and by share of distractors that share a name; without any, no such section."""
    versions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Method -> library -> version, as its training recorded them."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Path -> md5 of the files that the page was made from."""
    ablations: AblationTable = field(default_factory=lambda: AblationTable(rows=[]))


def render(contents: Contents) -> str:
    """Write the page as HTML; equal contents give equal text."""
    found, sources, surface = contents.summary, contents.sources, contents.surface
    split = contents.settings.get("eval", {}).get("split", "test")
    measure = MEASURES[found.measure]
    methods = list(dict.fromkeys(row.method for row in found.longest))
    position = "Position of the gold document (1 = first)"
    tokenize, mask = sources.get("tokenize", {}), sources.get("mask", {})
    template = _environment().get_template("page.html.j2")
    return template.render(
        title=contents.title,
        headline=text.headline(found),
        caption=text.caption(found),
        caution=text.caution(found, sources.get("base", {}).get("source", "")),
        summary=found,
        split=split,
        measure=measure,
        shorter=[length.label() for length in found.lengths[:-1]],
        by_group={(row.name, row.group): row for row in found.by_length},
        colour_of=dict(zip(methods, svg.colours(methods), strict=True)),
        paper=summary.PAPER,
        paper_rows=PAPER_ROWS,
        length_figures=charts.scores(found.by_length, "length", "Documents in the context", measure.phrase),
        position_figures=charts.scores(found.by_position, "position", position, measure.phrase),
        official_table=page_tables.official(found.official),
        surfaces=[
            (title, charts.heat_maps(surface, key, title))
            for key, title in (("score", text.capital(measure.phrase)), ("distraction_rate", "Distraction errors"))
            if surface
        ],
        with_intervals=charts.with_intervals(surface),
        error_figures=[charts.errors(found.longest)],
        training_figures=charts.training(contents.curves),
        **_retrieval(contents, split),
        tokenize=tokenize,
        lengths_table=page_tables.by_split(tokenize, page_tables.LENGTHS),
        mask=mask,
        mask_table=page_tables.by_split(mask, page_tables.MASK),
        **_analysis(sources.get("analysis", {})),
        examples=contents.examples,
        browsed_methods=methods,
        kinds_of={example.example_id: _kinds(example, methods) for example in contents.examples},
        **_ablations(contents.ablations),
        settings=page_tables.settings(contents.settings),
        prepared=page_tables.settings(sources.get("prepare", {})),
        base=page_tables.settings(sources.get("base", {})),
        versions=page_tables.by_settings(contents.versions),
        inputs=sorted(contents.inputs.items()),
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
        loader=jinja2.FunctionLoader(
            lambda name: resources.files(__package__).joinpath("templates", name).read_text("utf-8")
        ),
    )
    filters = (
        text.percent, text.percent_interval, text.points, text.points_interval, text.p_value, text.listed, text.capital,
    )  # fmt: skip
    environment.filters |= {function.__name__: function for function in filters}
    return environment


def _retrieval(contents: Contents, split: str) -> dict[str, Any]:
    """Show the retriever of this run, and the retrievers that validate compared."""
    used, compared = (contents.sources.get(name, {}) for name in ("retrieval", "validation"))
    validation_table, validation_constants = page_tables.validation(compared, split)
    return {
        "retrieval_figures": charts.retrieval(used, contents.summary, split),
        "retrieval_table": page_tables.retrieval(used),
        "retriever": page_tables.settings(used.get("retriever", {})),
        "validation_figures": charts.validation(compared, contents.settings, split),
        "validation_table": validation_table,
        "validation_constants": validation_constants,
        "equal_sizes": page_tables.equal_sizes(compared),
    }


def _analysis(analysis: Values) -> dict[str, Any]:
    """Show what analyze measured."""
    return {
        "analysis": analysis,
        "views_table": page_tables.views(analysis),
        "analysis_sentences": text.analysis_sentences(analysis),
        "attention_figures": charts.attention(analysis),
        "kind_figures": charts.kinds(analysis),
        "matching_table": page_tables.matching(analysis),
        "outcomes_table": page_tables.outcomes(analysis),
        "slopes_table": page_tables.slopes(analysis),
        "reach_table": page_tables.reach(analysis),
    }


def _ablations(table: AblationTable) -> dict[str, Any]:
    return {
        "ablation_groups": ablation_table.groups(table),
        "ablation_claims": " ".join(ablation_table.claims(table)),
        "ablation_headings": ablation_table.headings(table) if table.rows else [],
        "ablation_caption": ablation_table.caption(table) if table.rows else "",
        "ablation_figures": charts.ablations(table),
    }


def _shown(value: Any) -> Any:
    """Prepare the value of a template's expression: None becomes a dash, control characters become visible."""
    if value is None:
        return text.NONE
    return text.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _kinds(example: ShownExample, methods: Sequence[str]) -> list[str]:
    """List the values that the page's filters select by, counted from 1.

    They are `<kind>` and `<method>-<kind>` of every answer on the full context.
    """
    found = [
        (methods.index(answer.method) + 1, answer_browser.KINDS.index(answer.kind) + 1)
        for answer in example.answers
        if answer.input == "full"
    ]
    return sorted({str(kind) for _, kind in found} | {f"{method}-{kind}" for method, kind in found})
