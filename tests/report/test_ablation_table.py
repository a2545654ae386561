"""Claims follow the numbers up to their borders; the tables show them and survive their data."""

import pytest

from pipeline.report import ablation_table, text
from pipeline.report.ablation_table import AblationRow, AblationTable, Change, Mean, SeedMean, ToReference

TEXT = "<script>|`x`*\x1b[31m"


def row(
    difference: float | None = None,
    p_corrected: float = 0.001,
    *,
    p_value: float = 0.0009,
    label: str = "focused",
    method: str = "focused",
    mean: float = 0.634,
    num_seeds: int = 5,
    group: str = "main",
    **more: str,
) -> AblationRow:
    to_reference = difference is not None and ToReference(
        difference=difference, low=difference - 0.01, high=difference + 0.02, p_value=p_value,
        p_corrected=p_corrected, num_seeds=num_seeds, num_questions=512,
        distraction_rate=Change(difference=-0.03, low=-0.05, high=-0.01), slope=None,
    )  # fmt: skip
    around = Mean(mean=mean, low=mean - 0.05, high=mean + 0.05)
    return AblationRow(
        name=label, label=label, group=group, method=method, input=more.get("input", "full"), overrides={}, seeds=[1],
        per_seed=[SeedMean(seed=1, **around.model_dump())], pooled=around,
        distraction_rate=Mean(mean=0.2, low=0.1, high=0.3), slope=Mean(mean=0.66, low=0.5, high=0.8),
        reference=more.get("reference"), to_reference=to_reference or None,
    )  # fmt: skip


def table(*rows: AblationRow, **more: object) -> AblationTable:
    values = {"benchmark": "bios", "num_documents": 12, "num_questions": 512, "measure": "exact_match"}
    values = {**values, "num_comparisons": 20, "reference": "vanilla", "seconds": 1.0}
    values["claimed"] = [one.name for one in rows if one.method in ("focused", "guided")]
    return AblationTable(**{**values, "rows": list(rows), **more})


def said(one: AblationRow, **more: object) -> str:
    return ablation_table.claim(one, table(one, **more)).replace(text.NO_BREAK, " ").replace(text.MINUS, "-")


def test_a_difference_that_stands_is_more_or_less():
    assert said(row(0.052, label="skip")) == (
        "Focused (skip) answers 63.4 % of the questions over 12 documents correctly, 5.2 points more than vanilla "
        "(95 % interval +4.2 to +7.2, corrected p = 0.001, 5 seeds x 512 questions). Distraction errors differ by "
        "-3.0 points (95 % interval -5.0 to -1.0)."
    )
    assert said(row(-0.052), measure="qasper_f1") == (
        "Focused reaches 63.4 % answer F1 over 12 documents, 5.2 points less than vanilla "
        "(95 % interval -6.2 to -3.2, corrected p = 0.001, 5 seeds x 512 questions)."
    )


CORRECTED = "; its difference from vanilla is not significant after correction for 20 comparisons: +1.2 points ("
NONE_AT_ALL = "; no significant difference from vanilla: +1.2 points ("


@pytest.mark.parametrize(
    ("p_value", "p_corrected", "says"),
    [
        (0.001, 0.0499, ", 1.2 points more than vanilla ("),
        (0.001, 0.05, CORRECTED),
        (0.0499, 0.9, CORRECTED),
        (0.05, 0.9, NONE_AT_ALL),
        (1.0, 1.0, NONE_AT_ALL),
    ],
)
def test_at_the_borders_no_more_is_said_than_the_corrected_p_value_allows(p_value, p_corrected, says):
    sentence = said(row(0.012, p_corrected, p_value=p_value))
    assert sentence.startswith(f"Focused answers 63.4 % of the questions over 12 documents correctly{says}")
    assert ("points more than" in sentence) == (p_corrected < text.SIGNIFICANCE)


def test_words_follow_the_measure_the_counts_and_what_is_missing():
    assert said(row(0.1, num_seeds=1), measure="qasper_f1", num_documents=1).startswith(
        "Focused reaches 63.4 % answer F1 over 1 document, 10.0 points more than vanilla"
    )
    assert said(row(0.1, num_seeds=1)).count("1 seed x 512 questions).") == 1
    assert said(row()).endswith(
        "over 12 documents correctly (95 % interval 58.4 to 68.4); it has no row to be compared with."
    )


def test_claims_are_about_the_named_rows_that_are_there_however_good_the_others_are():
    rows = [row(method="vanilla", label="vanilla"), row(0.01, label="first"), row(0.3, label="better")]
    found = " ".join(ablation_table.claims(table(*rows, claimed=["first", "not done yet"])))
    assert "(first)" in found and "better" not in found and found.count("than vanilla") == 1
    both = ablation_table.claims(table(*rows, claimed=["better", "first"]))
    assert ["(first)" in sentence for sentence in both] == [True, False]
    assert " ".join(ablation_table.claims(table(*rows, claimed=[]))) == ""


def test_a_range_of_lengths_is_no_one_length():
    assert "over 12 documents" in said(row(0.1), min_documents=12)
    assert "over 9\N{EN DASH}12 documents" in said(row(0.1), min_documents=9)
    assert "over 1 document correctly," in said(row(0.1), min_documents=1, num_documents=1)


def test_the_markdown_table_has_one_line_per_row_and_as_many_cells():
    lines = ablation_table.markdown(table(row(method="vanilla", label="vanilla"), row(0.052))).splitlines()
    assert lines[0].startswith("Focused answers 63.4")
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4 and len({len(line) for line in rows}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]
    assert cells[0] == [
        "Group", "Row", "EM", "95 % interval", "vs vanilla", "95 % interval", "p", "p, corrected",
        "Distracted", "vs vanilla, 95 % interval", "First to last", "Seeds",
    ]  # fmt: skip
    assert cells[2][4:8] == [text.NONE] * 4
    assert cells[3] == [
        "main", "focused", "63.4", "[58.4, 68.4]", "+5.2", "[+4.2, +7.2]", "0.001", "0.001", "20.0",
        "-3.0 [-5.0, -1.0]".replace("-", text.MINUS), "+66.0", "1",
    ]  # fmt: skip
    assert lines[-1].startswith("bios: exact match over 12 documents") and "for 20 comparisons" in lines[-1]
    assert "Distracted" not in ablation_table.markdown(table(row(0.1), measure="qasper_f1"))


def test_a_label_that_opens_with_the_method_is_the_name_in_the_claim():
    assert said(row(0.052, label="focused, 480 steps")).startswith("Focused, 480 steps answers ")
    assert said(row(0.052, label="skip")).startswith("Focused (skip) answers ")


def test_a_row_is_set_against_the_row_that_it_is_compared_with_by_its_label():
    named = {"label": "longer", "method": "vanilla"}
    own = table(row(**named), row(0.1, reference="longer"), row(0.2, p_corrected=0.2, method="guided"))
    says = " ".join(ablation_table.claims(own)).replace(text.NO_BREAK, " ")
    assert "10.0 points more than longer (" in says and "its difference from vanilla is not significant after" in says
    assert "vs vanilla" in ablation_table.headings(own)
    assert "Compared with longer (main): focused (main). " in ablation_table.caption(own)
    other = table(row(**named), row(0.1), reference="longer")
    assert {"vs longer", "vs longer, 95 % interval"} <= set(ablation_table.headings(other))
    assert "vs longer: difference in points" in ablation_table.caption(other)
    assert "vanilla" not in " ".join(ablation_table.claims(other))
    assert r"\<script\>" in ablation_table.markdown(table(row(0.1), reference=TEXT)).splitlines()[2]


def test_the_caption_names_the_commit_whose_code_made_the_figures():
    caption = ablation_table.caption(table(row(0.1), code="commit 0123 of 2026-11-26"))
    assert caption.endswith(" The code that made these figures: commit 0123 of 2026-11-26.")
    assert "The code" not in ablation_table.caption(table(row(0.1)))


def test_two_rows_by_themselves_are_compared_without_correction():
    sentence = ablation_table.comparison(row(0.052), "vanilla-twice")
    assert sentence.replace(text.NO_BREAK, " ").replace(text.MINUS, "-") == (
        "focused compared with vanilla-twice: +5.2 points of the score (95 % interval +4.2 to +7.2, uncorrected "
        "p = 0.001, 5 seeds x 512 questions); distraction errors -3.0 points (95 % interval -5.0 to -1.0)"
    )


def test_groups_keep_the_order_of_the_file():
    rows = [row(0.1, group=group, label=label) for group, label in (("b", "1"), ("a", "2"), ("b", "3"))]
    groups = ablation_table.groups(table(*rows)).items()
    assert [(group, [name for name, _ in found]) for group, found in groups] == [
        ("b", ["1", "3"]),
        ("a", ["2"]),
    ]


def test_hostile_labels_stay_one_cell_and_no_rows_say_what_to_run():
    sentence = ablation_table.markdown(table(row(0.1, label=TEXT, group=TEXT), benchmark=TEXT))
    assert "\x1b" not in sentence and r"\<script\>\|\`x\`\*" in sentence
    assert len([line for line in sentence.splitlines() if line.startswith("|")]) == 3
    assert "make ablations" in ablation_table.markdown(AblationTable(rows=[]))
    assert ablation_table.groups(AblationTable(rows=[])) == {}


def test_the_short_table_has_the_claimed_rows_their_references_and_every_row_with_retrieval():
    rows = [
        row(label="untuned", method="base"),
        row(label="vanilla", method="vanilla"),
        row(0.2, label="read less", method="vanilla", input="retrieval"),
        row(label="twice the steps", method="vanilla"),
        row(0.1, label="other"),
        row(0.1, label="claimed", reference="twice the steps"),
    ]
    found = table(*rows, claimed=["claimed"])
    names = [one.name for one in ablation_table.main_rows(found)]
    assert names == ["untuned", "vanilla", "twice the steps", "claimed", "read less"]
    assert '10.0 points more than "twice the steps" (' in ablation_table.claims(found)[0].replace(text.NO_BREAK, " ")
