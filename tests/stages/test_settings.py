"""Stage settings: it writes the same whatever the settings are, and nothing where one is wrong."""

import shutil
from pathlib import Path

import pytest

from pipeline.runtime.errors import ConfigError
from pipeline.stages import settings
from tests.conftest import ROOT


def test_what_it_writes_depends_on_no_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    params, found = (ROOT / "params.yaml").read_text(), []
    for text in (params, params.replace("top_k: 4", "top_k: 3")):
        Path("params.yaml").write_text(text)
        settings.main()
        found.append(settings.CHECKED.read_bytes())
    assert found[0] == found[1]
    settings.CHECKED.unlink()
    Path("params.yaml").write_text(params.replace("top_k: 4", "top_k: 0"))
    with pytest.raises(ConfigError, match=r"mask\.top_k is 0"):
        settings.main()
    assert not settings.CHECKED.exists()
