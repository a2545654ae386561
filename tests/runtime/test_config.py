"""Settings: what is shipped loads, and what is wrong is said in one line with the mend."""

import json
import re
import shutil
from pathlib import Path

import omegaconf
import pytest
from ruamel.yaml import YAML

from pipeline.runtime import config, settings
from pipeline.runtime.errors import ConfigError
from tests.conftest import ROOT

YAMLS = sorted([*ROOT.glob("conf/**/*.yaml"), ROOT / "params.yaml"])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of params.yaml and conf/ to spoil."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def edit(project: Path, old: str, new: str, file: str = "params.yaml") -> None:
    text = (project / file).read_text()
    assert old in text
    (project / file).write_text(text.replace(old, new, 1))


def bundles(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


def bundle(group: str, name: str) -> dict[str, object]:
    return YAML(typ="safe").load((ROOT / "conf" / group / f"{name}.yaml").read_text())


@pytest.mark.parametrize("group", config.GROUPS)
def test_every_shipped_bundle_loads(project: Path, group: str):
    original = (project / "params.yaml").read_text()
    use = YAML(typ="safe").load(original)["use"]
    for name in bundles(group):
        (project / "params.yaml").write_text(original)
        edit(project, f"{group}: {use[group]}", f"{group}: {name}")
        loaded = config.load(root=project)
        assert isinstance(loaded, settings.Settings)


@pytest.mark.parametrize("name", ["2025", "true", "null", "中文", "my notes", "it's", "a=b", "x,y", "[z]", "$HOME"])
def test_any_file_name_is_a_bundle_and_one_that_yaml_reads_otherwise_is_written_in_quotes(project: Path, name: str):
    shutil.copy(project / "conf/data/bios.yaml", project / f"conf/data/{name}.yaml")
    edit(project, "data: bios", f"data: {json.dumps(name, ensure_ascii=False)}")
    assert config.load("prepare", project).data == config.load("prepare", ROOT).data


@pytest.mark.parametrize(
    ("written", "read"), [("2025", "2025"), ("true", "true"), ("1e3", "1000.0"), ("null", "null"), ("[a]", r"\['a'\]")]
)
def test_a_name_that_yaml_reads_otherwise_is_refused_with_the_mend(project: Path, written: str, read: str):
    shutil.copy(project / "conf/data/bios.yaml", project / "conf/data/2025.yaml")
    edit(project, "data: bios", f"data: {written}")
    with pytest.raises(ConfigError, match=f"use.data: YAML reads {read}, which is no text; write the name in quotes"):
        config.load("prepare", project)


def test_params_win_over_the_bundle(project: Path):
    assert config.load("train@vanilla", project).train.steps != 7
    edit(project, "train:\n  seed: 1", "train:\n  seed: 1\n  steps: 7")
    assert config.load("train@vanilla", project).train.steps == 7
    edit(project, "data: {}", "data: {test_questions: 9}")
    assert config.load("prepare", project).data.test_questions == 9


def test_a_folder_from_an_archive_is_told_to_become_a_repository(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project)
    with pytest.raises(ConfigError, match=r"is no git repository, which DVC needs; .* `git init && git add \. && git "):
        config.main()
    (project / ".git").mkdir()
    config.main()


def test_a_stage_sees_only_the_sections_it_declares(project: Path):
    loaded = config.load("mask", project)
    assert loaded.mask.mode == "token"
    with pytest.raises(AttributeError):
        loaded.contrastive  # noqa: B018  # the access is the test
    assert not hasattr(config.load("train@vanilla", project), "contrastive")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("top_k: 4 ", "topk: 4 ", r"params.yaml: mask.topk is not a setting \(did you mean top_k\?\)"),
        ("  top_k: 4 ", "  top_k: 0 ", r"params.yaml: mask.top_k is 0: input should be greater than or equal to 1"),
        (
            "mode: token",
            "mode: tokn",
            r"mask.mode is 'tokn'.*'token', 'skip', 'span' or 'drop' \(did you mean token\?\)",
        ),
        ("weight: 0.1", "weight: '0.1'", r"contrastive.weight is '0.1': input should be a valid number"),
        ("weight: 0.1", "weight: .nan", r"contrastive.weight is nan"),
        (
            "retriever: minilm",
            "retriever: minlm",
            r"no bundle 'minlm' \(did you mean minilm\?\); choose from bge, bm25, ",
        ),
        (
            "  profile: cpu ",
            "  profil: cpu ",
            r"use.profil is not a group \(did you mean profile\?\); .*use.profile is missing",
        ),
        ("mask:", "maks:", r"mask is missing.*maks is not a section \(did you mean mask\?\)"),
        (
            "data: {}",
            "data: {kind: bio}",
            r"params.yaml: data.kind is 'bio', expected one of 'bios', 'jsonl', 'quality', 'qasper'",
        ),
        ("data: {}", "data: {seeds: 1}", r"params.yaml: data.seeds is not a setting \(did you mean seed\?\)"),
        ("data: {}", "data: {xyz: 1}", r"data.xyz is not a setting; bios has seed, train_questions, .*_sharing_rates$"),
        (
            "data: {}",
            "data: {source:input/own}",
            r"data.source:input/own .* blank behind the colon: `source: input/own`$",
        ),
        (
            "mask:",
            "mask:{top_k: 4}\nmask:",
            r"mask:{top_k is not a section; put a blank behind the colon: `mask: {top_",
        ),
        (
            "data: bios",
            "data: bios\n  data:bios: 1",
            r"use.data:bios is not a group; put a blank behind the colon: `data: ",
        ),
        ("data: {}", "data: 5", r"params.yaml: data is 5: expected keys, such as `data: {seed: ...}`"),
        ("model: {}", "model: /models/mine", r"model is '/models/mine': expected keys, such as `model: {source: ...}`"),
        ("model: {}", "model: {source: null}", r"model.source is null: expected a text$"),
        ("model: {}", "model: {source: ~/models/mine}", r"model.source is '~/models/mine': ~ is not expanded"),
        (
            "model: {}",
            "model: {sha256: ABC}",
            r"model.sha256 is 'ABC': expected 64 hexadecimal digits, with small letters$",
        ),
        ("model: {}", "model: {sha256: true}", r"model.sha256 is true: expected a text$"),
        ("norms: true", "norms: 'yes'", r"lora.norms is 'yes': expected true or false"),
        ("data: {}", "data: [", r"params.yaml, line \d+: "),
        ("data: {}", "data: {}\ndata: {}", r'params.yaml, line \d+: the key "data" stands twice; keep one of them$'),
        ("data: {}", "\tdata: {}", r"params.yaml, line \d+: found character .*; YAML is indented by blanks, not tabs$"),
        (
            "data: {}",
            "data: a: b",
            r"params.yaml, line \d+: mapping .*; put a blank behind each colon, and a text that",
        ),
        ("data: {}", "data: " + "[" * 3000, r"params.yaml: maximum recursion depth exceeded.*; write plain sections"),
    ],
)
def test_a_wrong_setting_is_one_line_with_the_mend(project: Path, old: str, new: str, message: str):
    edit(project, old, new)
    with pytest.raises(ConfigError, match=message) as caught:
        config.load("mask", project)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("group", "name", "key", "message"),
    [
        (
            "data", "jsonl", "test_questions: 2000",
            "params.yaml: data.test_questions is a setting of bios, not of jsonl (use.data: jsonl), which has source, "
            "on_error, max_bad_fraction",
        ),
        ("data", "jsonl", "test_question: 9", "data.test_question is not a setting; jsonl has source, on_error"),
        ("retriever", "bm25", "source: here", "retriever.source is a setting of encoder, sentence_transformer and "
         "fusion, not of bm25 (use.retriever: bm25), which has k1, b, title"),
        ("retriever", "e5", "pooling: cls", "retriever.pooling is a setting of encoder and fusion, not "
         "of sentence_transformer (use.retriever: e5), which has source, revision, sha256,"),
        ("retriever", "e5", "poolings: cls", "retriever.poolings is not a setting; sentence_transformer has source,"),
        ("retriever", "e5", "query_promt: x", "retriever.query_promt is not a setting (did you mean query_prompt?)"),
    ],
)  # fmt: skip
def test_a_key_of_another_kind_is_told_with_the_kind_that_has_it(project: Path, group, name, key, message):
    use = YAML(typ="safe").load((project / "params.yaml").read_text())["use"]
    edit(project, f"{group}: {use[group]}", f"{group}: {name}")
    edit(project, f"{group}: {{}}", f"{group}: {{{key}}}")
    with pytest.raises(ConfigError) as caught:
        config.load("mask", project)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind", "own"),
    [
        ("minilm", "sentence_transformer", "encoder"),
        ("bm25", "sentence_transformer", "bm25"),
        ("bm25", "fusion", "bm25"),
    ],
)
def test_another_kind_over_a_bundle_is_told_in_one_clause(project: Path, name: str, kind: str, own: str):
    edit(project, "retriever: minilm", f"retriever: {name}")
    edit(project, "retriever: {}", f"retriever: {{kind: {kind}, source: here}}")
    with pytest.raises(ConfigError) as caught:
        config.load("mask", project)
    assert str(caught.value) == (
        f"params.yaml: retriever.kind is '{kind}', but use.retriever: {name} is of kind {own}; the kind belongs to the "
        "bundle: choose another use.retriever, or copy a file of conf/retriever and choose the copy"
    )


@pytest.mark.parametrize("name", bundles("model"))
def test_the_example_in_the_params_file_is_a_setting_of_every_bundle(project: Path, name: str):
    [example] = re.findall(r"for example `model: ({.*})`", (project / "params.yaml").read_text())
    edit(project, "model: {}", f"model: {example}")
    edit(project, "model: tiny", f"model: {name}")
    assert config.load("base", project).model.max_tokens == 2048


def test_all_problems_are_reported_at_once_and_name_their_file(project: Path):
    edit(project, "mode: token", "mode: tokn")
    edit(project, "rank: 8", "rank: 0")
    edit(project, "steps: ", "stepps: ", "conf/profile/cpu.yaml")
    with pytest.raises(ConfigError) as caught:
        config.load("report", project)
    message = str(caught.value)
    assert "params.yaml: mask.mode" in message
    assert "params.yaml: lora.rank is 0" in message
    assert "conf/profile/cpu.yaml: train.stepps is not a setting (did you mean steps?)" in message


def test_named_retrievers_load_as_their_bundles_stand_whatever_the_params_change(project: Path):
    edit(project, "retriever: {}", "retriever: {max_tokens: 64}")
    assert config.load("score", project).retriever.max_tokens == 64
    found = config.load_retrievers(["fusion", "minilm", "random"], project)
    assert {name: retriever.kind for name, retriever in found.items()} == {
        "fusion": "fusion", "minilm": "encoder", "random": "random",
    }  # fmt: skip
    assert found["minilm"].max_tokens == YAML(typ="safe").load(project / "conf/retriever/minilm.yaml")["max_tokens"]


def test_every_problem_of_the_named_retrievers_is_told_at_once(project: Path):
    edit(project, "b: 0.75", "b: 1.75", "conf/retriever/bm25.yaml")
    edit(project, "kind: random", "kind: rondom", "conf/retriever/random.yaml")
    with pytest.raises(ConfigError) as caught:
        config.load_retrievers(["minlm", "bm25", "random"], project)
    message = str(caught.value)
    assert (
        "params.yaml: validation.retrievers: no bundle 'minlm' (did you mean minilm?); choose from bge, bm25, "
        in message
    )
    assert "conf/retriever/bm25.yaml: retriever.b is 1.75: input should be less than or equal to 1" in message
    assert "conf/retriever/random.yaml: retriever.kind is 'rondom', expected one of 'encoder', 'bm25'" in message


def test_a_wrong_retriever_to_validate_stops_every_stage(project: Path):
    edit(project, "retrievers: [minilm", "retrievers: [minlm")
    with pytest.raises(ConfigError, match=r"validation.retrievers: no bundle 'minlm' \(did you mean minilm\?\)"):
        config.load("prepare", project)


def test_fusion_scores_as_its_encoder_and_bm25_do_alone():
    fusion, *parts = (bundle("retriever", name) for name in ("fusion", "minilm", "bm25"))
    for part in parts:
        assert part.items() - {("kind", part["kind"])} <= fusion.items()


@pytest.mark.parametrize("text", ["", "just text", "- a list"])
def test_a_params_file_without_sections_is_refused(project: Path, text: str):
    (project / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match="expected sections"):
        config.load("mask", project)


def test_a_missing_params_file_is_refused(project: Path):
    (project / "params.yaml").unlink()
    with pytest.raises(ConfigError, match="no such file"):
        config.load("mask", project)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_hydra_and_dvc_read_the_same_values(path: Path):
    """Two readers of YAML meet here: OmegaConf's (1.1 rules) and ruamel's, which DVC uses (1.2 rules)."""
    by_dvc = YAML(typ="safe").load(path.read_text())
    by_hydra = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.load(path))
    assert by_dvc == by_hydra


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_bundles_are_flat(path: Path):
    """DVC sees neither through `defaults` nor through `${}`: it would call a changed stage up to date."""
    text = path.read_text()
    assert "${" not in text
    if path.name != "config.yaml":
        assert "defaults:" not in text


def test_every_profile_has_the_sections_that_dvc_tracks():
    for name in bundles("profile"):
        path = ROOT / "conf/profile" / f"{name}.yaml"
        assert path.read_text().startswith("# @package _global_\n")
        assert set(YAML(typ="safe").load(path.read_text())) == {"train", "teach", "eval"}


def test_settings_that_do_not_go_together_are_one_line(project: Path):
    edit(project, "longbench: false", "longbench: true")
    assert config.load("evaluate", project).eval.longbench
    edit(project, "words: 200", "words: 300")
    with pytest.raises(
        ConfigError, match=r"^params.yaml: eval.longbench is true, but chunk.words is 300: .* 200 words"
    ):
        config.load("evaluate", project)


def test_guided_training_without_a_loss_is_one_line(project: Path):
    for _ in ("distill", "attention"):
        edit(project, "weight: 1.0 ", "weight: 0.0 ")
    assert config.load("train@guided", project).distill.weight == 0.0
    edit(project, "labelled: 1.0 ", "labelled: 0.0 ")
    with pytest.raises(
        ConfigError, match=r"^params.yaml: attention.weight, distill.weight and distill.labelled are all 0, .* above 0$"
    ):
        config.load("mask", project)
