"""The machine is measured or given by the environment, and wrong values are refused."""

import pytest

from pipeline.runtime.errors import ConfigError
from pipeline.tools.plan import hardware


@pytest.mark.parametrize("value", ["fast", "0", "-1", "inf", "nan"])
def test_a_wrong_speed_or_memory_is_refused(monkeypatch: pytest.MonkeyPatch, value: str):
    for name in ("FOCUS_TFLOPS", "FOCUS_GIB"):
        monkeypatch.setenv("FOCUS_TFLOPS", "1")
        monkeypatch.setenv("FOCUS_GIB", "1")
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=rf"{name} is '{value}'; it must be a positive number"):
            hardware.find("float32", 64, 64)


def test_the_machine_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FOCUS_DEVICE", "cpu")
    monkeypatch.delenv("FOCUS_TFLOPS", raising=False)
    monkeypatch.delenv("FOCUS_GIB", raising=False)
    monkeypatch.setattr(hardware, "_SECONDS", 0.05)
    found = hardware.find("float32", 64, 128)
    assert 1e8 < found.flops < 1e14
    assert 1e8 < found.bandwidth < 1e13
    assert 1 < found.memory / 2**30 < 1e5
    assert found.name.startswith("cpu, ")
    monkeypatch.setenv("FOCUS_GIB", "2.5")
    assert hardware.find("float32", 64, 128).memory == 2.5 * 2**30


def test_a_cpu_with_a_given_speed_is_still_a_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FOCUS_DEVICE", "cpu")
    monkeypatch.setenv("FOCUS_TFLOPS", "1.5")
    monkeypatch.delenv("FOCUS_GIB", raising=False)
    found = hardware.find("float32", 64, 128)
    assert (found.kind, found.flops) == ("cpu", 1.5e12)
    assert found.overhead == hardware.OVERHEAD["cpu"]
