"""OpenMP's threads do not spin while they wait, and the benchmark of busy machines prints what it promises."""

import os
import re
import runpy
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(("given", "spins"), [({}, "0"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000")])
def test_openmp_is_told_to_wait_before_torch_loads_it_and_the_user_wins(given: dict[str, str], spins: str):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", "import pipeline, torch"],
        env=environment | given | {"OMP_DISPLAY_ENV": "verbose"}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch has another OpenMP than GNU's here, which says nothing of its spins")
    assert set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)) == {spins}


def test_a_busy_machine_is_measured_beside_a_quiet_one(monkeypatch: pytest.MonkeyPatch, capsys):
    busy = runpy.run_path(str(ROOT / "benchmarks/busy.py"))
    for way in ("OpenMP's own", "one thread"):  # each way takes two processes
        monkeypatch.delitem(busy["WAYS"], way)
    monkeypatch.delitem(busy["BESIDE"], "two torch processes")
    monkeypatch.setitem(busy["BESIDE"], "two busy loops", ["import time\ntime.sleep(60)"])  # other tests are at work
    took = busy["main"](["--steps", "1", "--tokens", "48", "--rounds", "1"])
    assert took.keys() == {(way, load) for way in busy["WAYS"] for load in ("nothing", "two busy loops")}
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| passive")]
    assert len(rows) == 2 and any(row.endswith("| 1.00 |") for row in rows)
