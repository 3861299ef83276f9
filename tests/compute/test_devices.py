import os
from collections.abc import Iterator

import pytest
import torch

from pipeline.compute import (
    device_kind,
    make_accelerator,
    pick_device,
    set_threads,
    software_versions,
    use_any_kernels,
    use_deterministic_kernels,
)
from pipeline.errors import PipelineError

CPU = torch.device("cpu")


@pytest.fixture
def restored() -> Iterator[None]:
    """Put back what the code under test sets for the whole process."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("default")
    torch.backends.cudnn.benchmark = benchmark
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def test_auto_is_the_fastest_there_is() -> None:
    assert pick_device("auto").type == torch.empty(0, device=pick_device("auto")).device.type
    if torch.cuda.is_available():
        assert pick_device("auto").type == "cuda"
    else:
        assert pick_device("auto").type in ("mps", "cpu")


def test_named_device_is_taken() -> None:
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda:99", "cuda:x", "gpu", "cpu:1", ""])
def test_missing_device_is_refused_naming_what_there_is(name: str) -> None:
    with pytest.raises(PipelineError) as caught:
        pick_device(name)
    assert str(caught.value).startswith(
        f"device: '{name}' is not on this machine; allowed are auto"
    )
    assert str(caught.value).endswith("cpu. With 'auto' the fastest is taken.")


def test_kind_of_cpu_names_its_instructions() -> None:
    assert device_kind(CPU) == f"cpu {torch.backends.cpu.get_cpu_capability()}"


@pytest.mark.usefixtures("restored")
def test_threads_are_pinned() -> None:
    set_threads(3)
    assert torch.get_num_threads() == 3


def test_no_threads_are_refused() -> None:
    with pytest.raises(PipelineError) as caught:
        set_threads(0)
    assert str(caught.value) == "threads: must be at least 1; got 0."


@pytest.mark.usefixtures("restored")
def test_kernels_without_a_deterministic_version_raise() -> None:
    use_deterministic_kernels()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)


@pytest.mark.usefixtures("restored")
def test_a_student_may_use_any_kernel_again() -> None:
    use_deterministic_kernels()
    use_any_kernels()
    torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)


def test_versions_are_of_what_can_change_the_bytes() -> None:
    versions = software_versions()
    assert sorted(versions) == ["numcodecs", "numpy", "pillow", "pyarrow", "torch", "zarr"]
    assert torch.__version__.startswith(versions["torch"].split("+")[0])


def test_versions_name_more_if_asked_and_nothing_that_is_missing() -> None:
    versions = software_versions(["rich", "no-such-library"])
    assert "rich" in versions
    assert "no-such-library" not in versions


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_accelerator_trains_in_each_precision_and_says_nothing(
    precision: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: os.PathLike[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    accelerator = make_accelerator(precision, device=CPU)
    network = torch.nn.Linear(3, 2)
    model, optimizer = accelerator.prepare(network), torch.optim.SGD(network.parameters(), lr=0.1)
    with accelerator.autocast():
        hidden = torch.nn.functional.linear(torch.ones(1, 3), network.weight)
    accelerator.backward(model(torch.ones(1, 3)).square().sum())
    optimizer.step()
    assert hidden.dtype == getattr(torch, precision)
    assert accelerator.device == CPU
    assert os.listdir(tmp_path) == []
    assert capfd.readouterr() == ("", "")
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ


def test_unknown_training_precision_is_refused() -> None:
    with pytest.raises(PipelineError) as caught:
        make_accelerator("float16", device=CPU)
    assert str(caught.value) == (
        "training.precision: 'float16' is not known; allowed are float32, bfloat16."
    )
