"""The report's page: one HTML file that loads nothing, with all data escaped by the template.

`page.html.j2` says where things stand; here is only what goes in.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from pipeline.evaluation import score
from pipeline.report import (
    analysis_figures,
    analysis_grids,
    analysis_words,
    claims,
    forest,
    grids,
    paper,
    readings,
    result_figures,
    retrieval_figures,
    surface,
    wording,
)
from pipeline.report.ablation_table import Table
from pipeline.report.readings import Reading
from pipeline.report.summary import Summary
from pipeline.report.svg import Label, colours


class Figure(NamedTuple):
    """A drawing and the title over it."""

    title: str
    svg: Markup


PAPER_ROWS = {"vanilla": "vanilla", "vanilla + retrieval": "retrieval", "focused": "focused"}
"""Rows of the main table that the paper has too, and their names in paper.FIGURES."""


@dataclass(frozen=True)
class Contents:
    """Everything the page shows."""

    title: str
    summary: Summary
    curves: result_figures.Curves
    readings: Sequence[Reading]
    sources: Mapping[str, Any]
    """The stages' own figures: prepare, retrieval, mask, analysis, base; what is missing is not shown."""
    settings: Mapping[str, Any]
    surface: Sequence[Mapping[str, Any]] = ()
    """How hard the context is, by number of documents and share of borrowed names; none: no such section."""
    versions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Method -> library -> version, as its training noted them."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Path -> md5 of the files that the page was made from."""
    ablations: Table = field(default_factory=lambda: Table(rows=[]))


def render(contents: Contents) -> str:
    """The page as HTML text; equal contents give equal text."""
    template = _environment().get_template("page.html.j2")
    found, sources = contents.summary, contents.sources
    split = contents.settings.get("eval", {}).get("split", "test")
    _, heading, measure, *_ = score.MEASURES[found.measure]
    return template.render(
        title=contents.title,
        headline=wording.headline(found),
        caption=wording.caption(found),
        summary=found,
        split=split,
        heading=heading,
        measure=measure,
        beside_headings=wording.headings(found.measure),
        caution=wording.caution(found, sources.get("base", {}).get("source", "")),
        official_table=grids.official(found.official),
        lengths_table=grids.lengths(sources.get("tokenize", {})),
        shorter=[length.label() for length in found.lengths[:-1]],
        by_group={(row.name, row.group): row for row in found.by_length},
        colour_of=_colours(found),
        length_figures=_all(
            result_figures.measured_curves(found.by_length, "length", "Documents in the context", measure)
        ),
        position_figures=_all(
            result_figures.measured_curves(
                found.by_position, "position", "Place of the gold document (1 = first)", measure
            )
        ),
        error_figure=_figure(*result_figures.errors(found.longest)),
        training_figures=_all(result_figures.training(contents.curves)),
        **_retrieval(contents, split),
        tokenize=sources.get("tokenize", {}),
        mask=sources.get("mask", {}),
        mask_table=grids.mask(sources.get("mask", {})),
        **_inside(sources.get("analysis", {})),
        base=grids.settings(sources.get("base", {})),
        prepared=grids.settings(sources.get("prepare", {})),
        ablations=claims.section(contents.ablations),
        ablation_figure=_ablation_figure(contents.ablations),
        paper=paper.FIGURES,
        paper_rows=PAPER_ROWS,
        readings=contents.readings,
        reading_methods=(asked := list(dict.fromkeys(row.method for row in found.longest))),
        reading_kinds=[_kinds(reading, asked) for reading in contents.readings],
        surfaces=_surfaces(contents.surface, f"{measure[0].upper()}{measure[1:]}"),
        with_intervals=surface.with_intervals(contents.surface),
        versions=grids.by_values(contents.versions),
        inputs=sorted(contents.inputs.items()),
        settings=grids.settings(contents.settings),
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
    environment.filters |= {
        "percent": wording.percent,
        "beside": wording.beside,
        "interval": wording.interval,
        "points": wording.points,
        "points_interval": wording.points_interval,
        "p_value": wording.p_value,
        "listed": grids.listed,
    }
    return environment


def _retrieval(contents: Contents, split: str) -> dict[str, Any]:
    """Of the retriever that was used, and of those that were compared before."""
    used, compared = (contents.sources.get(name, {}) for name in ("retrieval", "validation"))
    return {
        "retrieval_figure": _drawn(retrieval_figures.retrieval(used, contents.summary, split)),
        "validation_figures": _all(retrieval_figures.validation(compared, contents.settings, split)),
        "validation_table": grids.validation(compared, split),
        "validation_constants": grids.validation_constants(compared, split),
        "alike": grids.alike(compared),
        "retrieval_table": grids.retrieval(used),
        "retriever": grids.settings(used.get("retriever", {})),
    }


def _inside(analysis: Mapping[str, Any]) -> dict[str, Any]:
    """What analyze found."""
    return {
        "analysis": analysis,
        "analysis_table": grids.analysis(analysis),
        "analysis_says": analysis_words.sentences(analysis),
        "attention_figures": _all(analysis_figures.attention(analysis)),
        "kind_figures": _all(analysis_figures.kinds(analysis)),
        "matching_table": analysis_grids.matching(analysis),
        "outcomes_table": analysis_grids.outcomes(analysis),
        "slopes_table": analysis_grids.slopes(analysis),
        "reach_table": analysis_grids.reach(analysis),
    }


def _shown(value: Any) -> Any:
    """What an expression of the template shows: nothing known as a dash, no control characters."""
    if value is None:
        return wording.NONE
    return wording.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _colours(found: Summary) -> dict[str, str]:
    methods = list(dict.fromkeys(row.method for row in found.longest))
    return dict(zip(methods, colours(methods), strict=True))


def _figure(label: Label, svg: str) -> Figure:
    # The drawing escapes its own text; nothing else on the page is taken for markup.
    return Figure(label.title, Markup(wording.visible(svg)))


def _all(drawn: Iterable[tuple[Label, str]]) -> list[Figure]:
    return [_figure(label, svg) for label, svg in drawn]


def _drawn(drawn: tuple[Label, str] | None) -> Figure | None:
    return None if drawn is None else _figure(*drawn)


def _kinds(reading: Reading, methods: Sequence[str]) -> list[str]:
    """What the filters ask for, all counted from 1: `<kind>` of any answer on the full context, `<method>-<kind>`."""
    found = [
        (methods.index(answer.method) + 1, readings.KINDS.index(answer.kind) + 1)
        for answer in reading.answers
        if answer.input == "full"
    ]
    return sorted({str(kind) for _, kind in found} | {f"{method}-{kind}" for method, kind in found})


def _surfaces(rows: Sequence[surface.Row], measure: str) -> list[tuple[str, list[Figure]]]:
    """Title of each measure, and its maps."""
    if not rows:
        return []
    titles: dict[surface.Measure, str] = {"score": measure, "distraction_rate": "Distraction errors"}
    return [
        (
            title,
            [Figure(drawn.name, Markup(wording.visible(drawn.svg))) for drawn in surface.heat_maps(rows, key, title)],
        )
        for key, title in titles.items()
    ]


def _ablation_figure(table: Table) -> Figure | None:
    effects = forest.effects(table)
    if not effects:
        return None
    others = ", or to the row named" if any(row.reference and row.to_reference for row in table.rows) else ""
    label = Label("ablations", f"Difference to {table.label_of(None)}{others}", "Points, with 95 % interval", "")
    return _figure(label, forest.forest(label, effects))
