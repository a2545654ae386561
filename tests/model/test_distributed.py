"""Several processes (gloo) train what one process trains: replicated (DDP), sharded (FSDP2), and by which command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.model import distributed
from pipeline.runtime.errors import ConfigError
from pipeline.training.objective import VANILLA, Objective
from tests.conftest import ROOT
from tests.toy_training import LORA, TRAIN, looking, train, write_views
from tests.training.test_objective import FOCUSED

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
HOW = {"replicas": {}, "shards": {"ACCELERATE_USE_FSDP": "true"}}


TRAININGS = {
    "graph": "questions_per_document=2 negatives=graph",
    "cached": "questions_per_document=2 negatives=cached",
    "plain": "negatives=cached",
    "distill": "negatives=cached distill=0.5 attention=0.4",
    "no-labels": "distill=0.5 labelled=0 attention=0.4",
    "consistent": "questions_per_document=2 negatives=cached consistency=0.8 attention=0.4",
}
"""Name -> settings of the trainings that two processes do one after the other."""


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    write_views(folder)
    return folder


@pytest.fixture(autouse=True)
def beside_the_base(views: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(views)


def together(views: Path, names: list[str], how: str, behind: int | None = None) -> None:
    """Do the trainings on two processes, which write <name>-<how>; `behind`: they go on behind that step."""
    trainings = [word for name in names for word in ("--", f"{name}-{how}", "dropout=0", *TRAININGS[name].split())]
    done = subprocess.run(
        [*TORCHRUN, "-m", "tests.toy_training", str(views), *trainings],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "FOCUS_CHECKPOINT_SECONDS": "0"} | HOW[how],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert ("sharded\n" in done.stderr) is (how == "shards"), done.stderr
    assert (f"resumed after step {behind} of" in done.stderr) is (behind is not None), done.stderr


@pytest.fixture(scope="module", params=HOW)
def how(request: pytest.FixtureRequest, views: Path) -> str:
    """How the processes share the model; all trainings are done."""
    together(views, list(TRAININGS), request.param)
    return request.param


def adapter(views: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(views / name / "adapter_model.safetensors")


def alone(
    views: Path, name: str, distill: float = 0.0, objective: Objective = FOCUSED, **changes: object
) -> dict[str, torch.Tensor]:
    settings = TRAIN.model_copy(update=changes)
    folder = train(
        views, name, objective._replace(distill=distill), settings, lora=LORA.model_copy(update={"dropout": 0.0})
    )
    return load_file(folder / "adapter_model.safetensors")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Adam divides by gradients near zero, so rounding shows: by 1.1e-5 on one processor, by less than 1e-6 on others.

    A part of the objective that is missing makes more than 1e-3.
    """
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0.0, atol=1e-4, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("name", ["graph", "cached", "plain"])
def test_two_processes_train_what_one_process_does(views: Path, how: str, name: str):
    """Negatives come from both processes; labels and rows are not spread evenly."""
    changes = {} if name == "plain" else {"questions_per_document": 2}
    one = alone(views, f"{name}-alone", negatives="graph" if name == "graph" else "cached", **changes)
    assert_same(adapter(views, f"{name}-{how}"), one)


def test_two_processes_distill_and_look_as_one_process_does(views: Path, how: str):
    """Beside all other losses; what the teacher said is not spread evenly."""
    one = alone(views, "distill-alone", 0.5, looking(FOCUSED, 0.4), negatives="cached")
    assert_same(adapter(views, f"distill-{how}"), one)
    elsewhere = alone(views, "unguided-alone", 0.5, negatives="cached")
    assert max((tensor - elsewhere[key]).abs().max() for key, tensor in one.items()) > 1e-3


def test_two_processes_learn_without_labels_what_one_process_does(views: Path, how: str):
    one = alone(views, "no-labels-alone", 0.5, looking(VANILLA._replace(full=0.0), 0.4))
    assert_same(adapter(views, f"no-labels-{how}"), one)


def test_two_processes_draw_answers_together_as_one_does(views: Path, how: str):
    """Two questions of one context share a row, so that one process has fewer forwards and an idle one."""
    objective = looking(FOCUSED._replace(consistency=0.8), 0.4)
    one = alone(views, "consistent-alone", objective=objective, negatives="cached", questions_per_document=2)
    assert_same(adapter(views, f"consistent-{how}"), one)


def test_processes_go_on_from_a_checkpoint_together(views: Path, how: str):
    """What a second run adds to the one of step 5 of 6 is what the first one added."""
    found = adapter(views, f"plain-{how}")
    before_last, last = sorted((views / f"plain-{how}-state").glob("step-*"))
    assert (before_last.name, last.name) == ("step-00000005", "step-00000006")
    shutil.rmtree(last)
    together(views, ["plain"], how, behind=5)
    again = adapter(views, f"plain-{how}")
    for key, tensor in found.items():
        assert torch.equal(tensor, again[key]), key


def test_a_launcher_takes_over(tmp_path: Path):
    """FOCUS_LAUNCH starts the module anew, once for each process; within these nothing is launched again."""
    program = tmp_path / "echo_rank.py"
    program.write_text(
        "import os, sys\nfrom pipeline.model import distributed\n"
        "distributed.launch('echo_rank', sys.argv[1:])\n"
        "open(f'rank-{os.environ[\"RANK\"]}', 'w').write(' '.join(sys.argv[1:]))\n"
    )
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
        "FOCUS_LAUNCH": " ".join(TORCHRUN),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, str(program), "focused"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in range(2)] == ["focused", "focused"]


def test_a_launchers_processes_fail_with_one_line_and_their_own_code(tmp_path: Path):
    """Both processes fail; torchrun's own code would be 1 and its last line a rule of dashes."""
    program = tmp_path / "fail.py"
    program.write_text(
        "import sys\nfrom pipeline.model import distributed\n"
        "from pipeline.runtime.errors import NumericError\nfrom pipeline.runtime.main import run\n"
        "def main():\n"
        "    distributed.launch('fail', sys.argv[1:])\n"
        "    raise NumericError('loss is nan')\n"
        "run(main)\n"
    )
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
        "FOCUS_LAUNCH": " ".join(TORCHRUN),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, str(program)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 5
    assert done.stderr.endswith("\nerror: loss is nan\n")
    assert done.stderr.count("loss is nan") == 1


def test_a_launcher_that_starts_no_group_is_refused(monkeypatch: pytest.MonkeyPatch):
    """It would launch itself without end."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("FOCUS_LAUNCH", "env")
    monkeypatch.setenv("FOCUS_LAUNCHED", "somewhere")
    with pytest.raises(ConfigError, match="FOCUS_LAUNCH is 'env', which starts processes without a RANK"):
        distributed.launch("pipeline.stages.train", ["focused"])


def test_a_launcher_with_an_open_quote_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FOCUS_LAUNCH", 'torchrun "x')
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="No closing quotation"):
        distributed.launch("pipeline.stages.train", ["focused"])


def test_a_launcher_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FOCUS_LAUNCH", "no-such-launcher --nproc-per-node 2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match=r"FOCUS_LAUNCH starts with 'no-such-launcher' \(No such file"):
        distributed.launch("pipeline.stages.train", ["focused"])
