"""Settings: what is shipped loads, and what is wrong is said in one line with the mend."""

import shutil
from pathlib import Path

import omegaconf
import pytest
from ruamel.yaml import YAML

from pipeline import config, settings
from pipeline.errors import ConfigError
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


@pytest.mark.parametrize("group", config.GROUPS)
def test_every_shipped_bundle_loads(project: Path, group: str):
    original = (project / "params.yaml").read_text()
    use = YAML(typ="safe").load(original)["use"]
    for name in bundles(group):
        (project / "params.yaml").write_text(original)
        edit(project, f"{group}: {use[group]}", f"{group}: {name}")
        loaded = config.load(settings.Settings, project)
        assert isinstance(loaded, settings.Settings)


def test_params_win_over_the_bundle(project: Path):
    assert config.load(settings.TrainVanillaStage, project).train.steps != 7
    edit(project, "train:\n  seed: 1", "train:\n  seed: 1\n  steps: 7")
    assert config.load(settings.TrainVanillaStage, project).train.steps == 7
    edit(project, "data: {}", "data: {test_questions: 9}")
    assert config.load(settings.PrepareStage, project).data.test_questions == 9


def test_a_stage_sees_only_the_sections_it_declares(project: Path):
    loaded = config.load(settings.MaskStage, project)
    assert loaded.mask.mode == "token"
    with pytest.raises(AttributeError):
        loaded.contrastive  # noqa: B018  # the access is the test
    assert not hasattr(config.load(settings.TrainVanillaStage, project), "contrastive")


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
        ("retriever: minilm", "retriever: minlm", r"no bundle 'minlm' \(did you mean minilm\?\); choose from bm25, "),
        (
            "  profile: cpu ",
            "  profil: cpu ",
            r"use.profil is not a group \(did you mean profile\?\); .*use.profile is missing",
        ),
        ("mask:", "maks:", r"mask is missing.*maks is not a section \(did you mean mask\?\)"),
        ("data: {}", "data: {kind: bio}", r"params.yaml: data.kind is 'bio', expected one of 'bios', 'jsonl', 'nq'"),
        ("data: {}", "data: {seeds: 1}", r"params.yaml: data.seeds is not a setting \(did you mean seed\?\)"),
        ("data: {}", "data: [", r"params.yaml, line \d+: "),
        ("data: {}", "data: {}\ndata: {}", r'params.yaml, line \d+: found duplicate key "data"'),
        ("data: {}", "\tdata: {}", r"params.yaml, line \d+: found character"),
    ],
)
def test_a_wrong_setting_is_one_line_with_the_mend(project: Path, old: str, new: str, message: str):
    edit(project, old, new)
    with pytest.raises(ConfigError, match=message) as caught:
        config.load(settings.MaskStage, project)
    assert caught.value.exit_code == 2


def test_all_problems_are_reported_at_once_and_name_their_file(project: Path):
    edit(project, "mode: token", "mode: tokn")
    edit(project, "rank: 8", "rank: 0")
    edit(project, "steps: ", "stepps: ", "conf/profile/cpu.yaml")
    with pytest.raises(ConfigError) as caught:
        config.load(settings.ReportStage, project)
    message = str(caught.value)
    assert "params.yaml: mask.mode" in message
    assert "params.yaml: lora.rank is 0" in message
    assert "conf/profile/cpu.yaml: train.stepps is not a setting (did you mean steps?)" in message


@pytest.mark.parametrize("text", ["", "just text", "- a list"])
def test_a_params_file_without_sections_is_refused(project: Path, text: str):
    (project / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match="expected sections"):
        config.load(settings.MaskStage, project)


def test_a_missing_params_file_is_refused(project: Path):
    (project / "params.yaml").unlink()
    with pytest.raises(ConfigError, match="no such file"):
        config.load(settings.MaskStage, project)


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
        assert set(YAML(typ="safe").load(path.read_text())) == {"train", "eval"}
