"""Training on real tables with a toy base: equal runs, vanilla as a special case, killed and resumed, its adapter."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.runtime import curves, methods
from pipeline.runtime.errors import ConfigError, NumericError, ResourceError
from pipeline.training import checkpoint, objective, trainer
from tests.conftest import ROOT
from tests.model import tiny
from tests.toy_training import LORA, TRAIN, train, write_views
from tests.training.test_objective import FOCUSED


@pytest.fixture
def views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_views(tmp_path)
    monkeypatch.chdir(tmp_path)  # models/base stands there
    return tmp_path


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOCUS_CHECKPOINT_SECONDS", "0")


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def written(folder: Path) -> dict[str, bytes]:
    """Adapter and curves, byte for byte."""
    curves = folder.with_name(f"{folder.name}-curves") / "plots/metrics/train"
    paths = [folder / "adapter_model.safetensors", *sorted(curves.glob("*.tsv"))]
    return {path.name: path.read_bytes() for path in paths}


def with_settings(**changes):
    return TRAIN.model_copy(update=changes)


def test_out_of_memory_is_one_line_with_what_makes_the_step_smaller(views: Path, monkeypatch: pytest.MonkeyPatch):
    def shortage(*arguments):
        torch.empty(1 << 62, dtype=torch.uint8)

    monkeypatch.setattr(trainer.grad_cache, "accumulate", shortage)
    with pytest.raises(
        ResourceError, match=r"out of memory in a step of \d+ forwards, .* all kept at once; set train.neg"
    ):
        train(views, "large")


def test_the_same_run_gives_the_same_adapter_and_curves(views: Path):
    assert written(train(views, "one")) == written(train(views, "other"))


def test_weight_zero_with_the_full_view_alone_is_bitwise_the_vanilla_adapter(views: Path):
    focused = train(views, "focused", FOCUSED._replace(masked=0.0, contrastive=0.0))
    vanilla = train(views, "vanilla", objective.VANILLA)
    assert (focused / "adapter_model.safetensors").read_bytes() == (vanilla / "adapter_model.safetensors").read_bytes()
    whole = adapter(train(views, "whole"))
    assert any(not torch.equal(tensor, whole[name]) for name, tensor in adapter(vanilla).items())


@pytest.mark.parametrize(
    "changes",
    [{"negatives": "cached"}, {"batch_tokens": 10_000}, {"activation_checkpointing": True}],
    ids=["cached", "one forward", "checkpointed"],
)
def test_how_the_gradient_is_computed_changes_no_adapter(views: Path, changes):
    """Within what rounding in another order does."""
    lora = LORA.model_copy(update={"dropout": 0.0})  # which forwards share their random numbers differs
    one = adapter(train(views, "one", lora=lora))
    other = adapter(train(views, "other", settings=with_settings(**changes), lora=lora))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-5)


def test_training_moves_every_trainable_parameter_and_lowers_the_loss(views: Path):
    folder = train(views, "focused", settings=with_settings(steps=40))
    moved = adapter(folder)
    lora_b = [tensor for name, tensor in moved.items() if "lora_B" in name or "embedding_B" in name]
    assert len(lora_b) == 9
    assert all(tensor.abs().max() > 0 for tensor in lora_b)
    assert any((tensor - 1).abs().max() > 1e-3 for name, tensor in moved.items() if "norm" in name)
    curve = (views / "focused-curves/plots/metrics/train/loss.tsv").read_text().splitlines()
    assert curve[0].split("\t") == ["step", "loss"]
    losses = [float(line.split("\t")[1]) for line in curve[1:]]
    assert len(losses) == 20
    assert losses[-1] < losses[0]
    assert {path.stem for path in (views / "focused-curves/plots/metrics/train").glob("*.tsv")} == {
        curve.name for curve in curves.CURVES if methods.FOCUSED in curve.methods and curve.always
    }


def test_curves_and_metrics_grow_while_training_runs(views: Path, monkeypatch: pytest.MonkeyPatch):
    step, seen = trainer.grad_cache.accumulate, []

    def looking(*arguments):
        metrics = views / "live-curves/metrics.json"
        curve = metrics.with_name("plots") / "metrics/train/loss.tsv"
        seen.append((json.loads(metrics.read_text())["step"], len(curve.read_text().splitlines())) if seen[1:] else ())
        return step(*arguments)

    monkeypatch.setattr(trainer.grad_cache, "accumulate", looking)
    train(views, "live")  # a point every second of six steps
    assert seen == [(), (), (2, 2), (2, 2), (4, 3), (4, 3)]
    metrics = json.loads((views / "live-curves/metrics.json").read_text())
    assert metrics["step"] == 6 and metrics.keys() > {"loss", "clm_full", "grad_norm", "learning_rate"}


def test_curves_that_cannot_be_written_on_the_way_stop_nothing(views: Path, monkeypatch: pytest.MonkeyPatch):
    write, calls = trainer.write_curves, []

    def full_at_first(*arguments):
        calls.append(1)
        if len(calls) < 3:
            raise OSError(28, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(trainer, "write_curves", full_at_first)
    assert written(train(views, "full")) == written(train(views, "whole"))


def test_a_curve_that_is_not_in_the_table_is_refused(views: Path, monkeypatch: pytest.MonkeyPatch):
    accumulate = trainer.grad_cache.accumulate

    def logging_one_more(*arguments):
        outcome = accumulate(*arguments)
        return outcome._replace(logged=outcome.logged | {"novel": torch.zeros(())})

    monkeypatch.setattr(trainer.grad_cache, "accumulate", logging_one_more)
    with pytest.raises(ValueError, match=r"no curve of the name novel; add it to pipeline/runtime/curves.py"):
        train(views, "one")


def test_the_adapter_loads_with_plain_peft_in_a_fresh_process(views: Path):
    """The same logits to the last bit, from files alone."""
    base = views / "base"
    tiny.network().save_pretrained(base)
    folder = train(views, "focused")
    ids = list(range(4, 30))
    program = (
        "import json, sys, torch\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n"
        "network = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1]), sys.argv[2]).eval()\n"
        "print(json.dumps(network(input_ids=torch.tensor([json.loads(sys.argv[3])])).logits[0, -1].tolist()))\n"
    )
    command = [sys.executable, "-c", program, str(base), str(folder), json.dumps(ids)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    here = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder)).eval()
    logits = here(input_ids=torch.tensor([ids])).logits[0, -1]
    assert json.loads(output) == logits.tolist()
    plain = AutoModelForCausalLM.from_pretrained(base).eval()(input_ids=torch.tensor([ids])).logits[0, -1]
    assert (plain - logits).abs().max() > 1e-3


def test_a_loss_that_is_not_finite_stops_and_names_the_example(views: Path, monkeypatch: pytest.MonkeyPatch):
    encode = objective.Encoder.forward

    def poisoned(self, inputs, **options):
        found = encode(self, inputs, **options)
        return found._replace(loss_E=torch.where(inputs.end_E == 24, torch.nan, found.loss_E))

    monkeypatch.setattr(objective.Encoder, "forward", poisoned)
    with pytest.raises(NumericError, match=r"loss is not finite at step \d with examples e3; lower train.learning"):
        train(views, "broken", objective.VANILLA)
    with pytest.raises(NumericError, match=r"step 1 with examples (e\d, ){3}e\d; lower"):
        train(views, "broken", FOCUSED._replace(full=float("inf")))


def program(views: Path, name: str, *changes: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.toy_training", str(views), name, *changes]
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_killed_at_twenty_points_it_ends_with_the_same_adapter(views: Path):
    """SIGKILL anywhere, also while a checkpoint is written; adapter and curves are those of a run without a break."""
    with program(views, "killed", "steps=100", "kills=20", FOCUS_CHECKPOINT_SECONDS="0") as process:
        output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert output.split("\n")[:-1] == ["killed"] * 20 + ["ended with 0"], errors
    assert errors.count("resumed after step") == 20
    with program(views, "whole", "steps=100") as process:
        assert process.communicate(timeout=300)[1] == ""
    assert written(views / "killed") == written(views / "whole")


def test_a_training_with_a_teacher_and_taught_attention_goes_on_where_it_was_killed(views: Path):
    guided = ["steps=60", "distill=1", "attention=1"]
    with program(views, "pupil-killed", *guided, "kills=3", FOCUS_CHECKPOINT_SECONDS="0") as process:
        output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert output.split("\n")[:-1] == ["killed"] * 3 + ["ended with 0"], errors
    with program(views, "pupil", *guided) as process:
        assert process.communicate(timeout=200)[1] == ""
    assert written(views / "pupil-killed") == written(views / "pupil")
    for name, share in (("distill", 0.5), ("attention", 0.95)):
        curve = (views / f"pupil-curves/plots/metrics/train/{name}.tsv").read_text().splitlines()
        divergence = [float(line.split("\t")[1]) for line in curve[1:]]
        assert divergence[-1] < share * divergence[0], name


def test_a_sigterm_saves_and_ends_with_130(views: Path):
    with program(views, "told", "steps=5000", "log_every=1", FOCUS_CHECKPOINT_SECONDS="1") as process:
        while not list((views / "told-state").glob("step-*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors == "error: interrupted; finished artifacts are whole, run the same command to go on\n"


def test_stopped_between_two_steps_it_goes_on_to_the_same_adapter(views: Path, monkeypatch: pytest.MonkeyPatch):
    step = trainer.grad_cache.accumulate
    calls = []

    def told(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # a queue tells the launcher, which passes it on, and the process too
        return step(*arguments)

    monkeypatch.setattr(trainer.grad_cache, "accumulate", told)
    with pytest.raises(KeyboardInterrupt):
        train(views, "told")
    assert len(calls) == 3
    train(views, "told")
    assert len(calls) == 6  # three of six steps were left
    assert written(views / "told") == written(train(views, "whole"))


def test_a_damaged_checkpoint_is_passed_over(views: Path, every_step: None, capsys: pytest.CaptureFixture[str]):
    train(views, "one")
    newest = sorted((views / "one-state").glob("step-*"))[-1]
    (newest / checkpoint.STATE).write_bytes(b"half")
    before = written(views / "one")
    capsys.readouterr()
    train(views, "one")
    errors = capsys.readouterr().err
    assert f"{newest}: damaged, removed" in errors
    assert "resumed after step 5 of 6" in errors
    assert written(views / "one") == before


@pytest.mark.parametrize("marker", ["[]", "null", "half", '{"sha256": 5}'])
def test_what_is_not_whole_never_counts_as_one_of_the_newest(views: Path, marker: str):
    checkpoints = checkpoint.Checkpoints(views / "state", {})
    for step in (49, 50):
        checkpoints.save(step, {"step": step})
        (views / f"state/step-{step:08d}/{checkpoint.MARKER}").write_text(marker)
    (views / "state/step-junk").touch()
    assert checkpoints.latest() is None
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": step})
    assert checkpoints.latest() == {"step": 3}
    assert sorted(path.name for path in (views / "state").glob("step-0*")) == ["step-00000002", "step-00000003"]
    checkpoints.close()


def test_a_full_disk_names_the_file_and_leaves_nothing_unfinished(views: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoints = checkpoint.Checkpoints(views / "state", {})
    monkeypatch.setattr(checkpoint.os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left")))
    message = r"state/step-00000001: cannot be written, no space left on device \([\d,]+ bytes are needed\); make room"
    with pytest.raises(ResourceError, match=message):
        checkpoints.save(1, {"step": 1})
    assert not list((views / "state").glob("*0000*"))
    checkpoints.close()


def test_a_checkpoint_that_the_disk_has_no_room_for_is_not_begun(views: Path, small_disk: Path):
    """On a real disk that is full, not a pretended one."""
    checkpoints = checkpoint.Checkpoints(small_disk / "state", {})
    checkpoints.save(1, {"weight": torch.zeros(1000)})
    message = r"state/step-00000002: [48],\d{3},\d{3} bytes are needed, [\d,]+ are free; make room, or write to another"
    with pytest.raises(ResourceError, match=message):
        checkpoints.save(2, {"weight": torch.zeros(1_000_000)})
    assert checkpoints.latest() is not None
    assert [path.name for path in sorted((small_disk / "state").glob("*step*"))] == ["step-00000001"]
    checkpoints.close()


def test_an_adapter_that_cannot_be_written_costs_no_step(views: Path, capsys: pytest.CaptureFixture[str]):
    (views / "hurt").write_text("where the adapter should go")
    with pytest.raises(FileExistsError):
        train(views, "hurt")
    (views / "hurt").unlink()
    capsys.readouterr()
    train(views, "hurt")
    assert "resumed after step 6 of 6" in capsys.readouterr().err
    assert written(views / "hurt") == written(train(views, "whole"))


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_the_end_of_dvc_ends_the_training_with_a_checkpoint(views: Path, shell: str):
    """DVC that is told to end ends at once, and tells nothing to the stage that it has started.

    Bash gives its process to the only command of a line; sh of Debian stays between DVC and the stage.
    """
    state, log = views / "orphan-state", views / "log"
    (views / "dvc.yaml").write_text(
        "stages:\n  train:\n    cmd: python -m tests.toy_training . orphan steps=5000 log_every=1\n"
    )
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "FOCUS_CHECKPOINT_SECONDS": "0", "SHELL": shutil.which(shell) or "",
    }  # fmt: skip
    subprocess.run(["dvc", "init", "--quiet", "--no-scm"], cwd=views, env=environment, check=True)
    with log.open("w") as file:
        dvc = subprocess.Popen(["dvc", "repro"], cwd=views, env=environment, stdout=file, stderr=file)
        while not list(state.glob("step-*")):
            assert dvc.poll() is None, log.read_text()
            time.sleep(0.05)
        dvc.terminate()
        dvc.wait()
    with FileLock(state / "lock", timeout=60):  # the training has let go of it
        pass
    wanted = "error: the DVC that started this stage has ended; finished artifacts are whole, run the same command to "
    deadline = time.monotonic() + 60
    while wanted not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert wanted in log.read_text() and "Traceback" not in log.read_text()
    checkpoints = checkpoint.Checkpoints(state, {})
    found = checkpoints.latest()
    assert found is not None and found["done"] < 5000
    checkpoints.close()


def test_another_training_does_not_go_on_from_it(views: Path, every_step: None, capsys: pytest.CaptureFixture[str]):
    train(views, "one", identity={"train.seed": "1", "lora.rank": "4"})
    capsys.readouterr()
    train(views, "one", identity={"train.seed": "2", "lora.rank": "4"})
    errors = capsys.readouterr().err
    assert "not resumed, because the settings, data or code differ: train.seed 1 -> 2\n" in errors
    assert "resumed after" not in errors


def test_two_trainings_of_one_method_at_once_are_refused(views: Path):
    first = checkpoint.Checkpoints(views / "state", {})
    with pytest.raises(ResourceError, match="another process trains this method"):
        checkpoint.Checkpoints(views / "state", {})
    first.close()
    checkpoint.Checkpoints(views / "state", {}).close()


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "inf"])
def test_the_time_between_checkpoints_is_checked(given: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FOCUS_CHECKPOINT_SECONDS", given)
    with pytest.raises(ConfigError, match=f"FOCUS_CHECKPOINT_SECONDS is '{given}'; give seconds"):
        checkpoint.interval()


def test_the_identity_names_settings_data_code_and_versions(views: Path, monkeypatch: pytest.MonkeyPatch):
    data = [views / "full.parquet"]
    found = checkpoint.identity({"train": {"steps": 6, "seed": 1}}, data)
    # A stage that is run is __main__, not a module of the package.
    monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__file__=str(data[0])))
    assert checkpoint.identity({}, data)["code"] != found["code"]
    assert (found["train.steps"], found["torch"]) == (6, torch.__version__)
    code = checkpoint.identity({}, data)["code"]
    for name, counts in (("pipeline.runtime.settings", False), ("pipeline.training.losses", True)):
        monkeypatch.setattr(sys.modules[name], "__file__", str(data[0]))  # as if it were edited
        assert (checkpoint.identity({}, data)["code"] != code) is counts, name
    before = found[str(data[0])]
    data[0].write_bytes(b"other")
    assert checkpoint.identity({}, data)[str(data[0])] != before
