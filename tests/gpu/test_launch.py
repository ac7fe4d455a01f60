"""Around the kernels: geometry, argument packing, fake tensors on CUDA devices, and what is said where there is none."""

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from host_device import HostDevice, signatures
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import difflayers
from difflayers import DMMMatching, ExactMatching, QuadraticMatching, SATNet, _cuda, functional
from difflayers._checks import check_device
from difflayers.matching.cuda import Launch
from difflayers.matching.dmm.cuda import dmm_geometry
from difflayers.matching.exact.cuda import exact_geometry
from difflayers.matching.quadratic.cuda import quadratic_geometry
from difflayers.satnet import cuda as satnet
from difflayers.satnet import op

LIMITS = [64 * 1024, 99 * 1024, 163 * 1024, 227 * 1024]
DTYPES = [torch.float32, torch.float64]
TOO_LONG = {(64 * 1024, torch.float64, 200), (99 * 1024, torch.float64, 200)}  # k for which a block has no room
OPERATORS = ["satnet_mixing", "satnet_adjoint", "dmm", "dmm_adjoint", "quadratic", "quadratic_adjoint", "exact"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (12, 0)])
@pytest.mark.parametrize("limit", LIMITS)
def test_geometry_of_satnet(limit: int, capability: tuple[int, int], dtype: torch.dtype) -> None:
    for N in (1, 2, 7, 100, 1030, 20_000):
        for k in (1, 8, 16, 17, 32, 48, 64, 65, 96, 128, 200):
            if (limit, dtype, k) in TOO_LONG:
                continue
            g = satnet.geometry(N, k, dtype, limit, capability)
            assert g.tensor == (dtype == torch.float32 and capability >= (8, 0) and k > 16 and g.tile >= 16)
            unit = (32 if g.tensor else 16) * math.ceil(g.columns / 64)
            assert k <= g.columns < k + unit and g.columns % unit == 0
            assert g.threads == 32 * g.warps <= 512 and 1024 % g.threads == 0
            assert 0 <= g.capacity < N + 8 and g.capacity % 8 == 0 and g.base <= g.shared <= limit
            assert g.shared == g.base + g.capacity * g.columns * dtype.itemsize
            if 0 < g.capacity < N:
                assert 2 * g.capacity >= N and g.shared + 8 * g.columns * dtype.itemsize > limit
            assert g.tile * ((g.columns + 31) // 32) <= 64 or g.tile == 8


def test_geometry_of_the_sudoku_layer() -> None:
    """On an H100 or H200 all 1,030 vectors, padded to 1,032, are in shared memory, with 8 warps."""
    g = satnet.geometry(1030, 32, torch.float32, 227 * 1024, (9, 0))
    assert (g.columns, g.tile, g.warps, g.capacity, g.tensor) == (32, 32, 8, 1032, True)


def test_geometry_refuses_a_k_that_cannot_be_held() -> None:
    for limit, dtype, k in (*TOO_LONG, (227 * 1024, torch.float32, 10_000)):
        with pytest.raises(ValueError, match="k must leave a block room"):
            satnet.geometry(10, k, dtype, limit, (7, 5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limit", LIMITS)
def test_geometry_of_matching(limit: int, dtype: torch.dtype) -> None:
    for make in (dmm_geometry, quadratic_geometry, exact_geometry):
        for n, m in [(1, 1), (10, 50), (3, 4000), (64, 200), (200, 300), (1000, 1000)]:
            g = make(n, m, dtype, limit)
            assert g.threads == 32 * g.warps <= 512 and g.bytes % 16 == 0 and g.shared <= limit
            assert g.in_shared == (g.shared >= g.bytes)
            if make is dmm_geometry:
                assert 4 * (g.warps - 1) < n, "each warp has rows, whose column sums it starts"
    assert dmm_geometry(10, 50, torch.float32, 227 * 1024).warps == 1


@pytest.mark.parametrize(
    ("file", "kernel", "geometry", "least"),
    [
        ("dmm.cu", "dmm", dmm_geometry, 13_400),
        ("quadratic.cu", "quadratic", quadratic_geometry, 8_200),
    ],
)
def test_problems_beyond_32_bits_are_refused(
    host: HostDevice, file: str, kernel: str, geometry: Any, least: int
) -> None:
    with pytest.raises(
        ValueError, match=f"less than 2 GiB to be solved on CUDA; got {least} x {least}, which needs 2.0"
    ):
        Launch(torch.empty(2, least, least, device="meta"), file, kernel, geometry)
    below = geometry(least - 200, least - 200, torch.float32, 1)
    assert below.bytes < 2**31 and _cuda.pack([below.bytes]) == [below.bytes]


def test_arguments_are_packed_as_the_sources_have_them() -> None:
    tensor = torch.zeros(3)
    packed = _cuda.pack([tensor, 3, True, 0.5])
    assert packed == [tensor.data_ptr(), 3, 1, 0.5]
    assert [type(value) for value in packed] == [int, np.int32, np.int32, np.float64]
    with pytest.raises(OverflowError):
        _cuda.pack([2**31])


@pytest.mark.parametrize("file", ["gram.cu", "satnet.cu", "dmm.cu", "quadratic.cu", "exact.cu"])
def test_parameters_are_pointers_int32_and_float64(file: str) -> None:
    kernels = signatures(_cuda.program(file, torch.float32))
    assert kernels
    for name, types in kernels.items():
        assert {kind for kind in types if not kind.endswith("*")} <= {"int", "double"}, name
    source = _cuda.program(file, torch.float32).source()
    assert "#include" not in source and source.count("__global__ void") == len(kernels)


def test_grid_is_bounded_by_what_the_device_works_on(host: HostDevice) -> None:
    host.multiprocessors = 3
    S = torch.randn(5, 4)
    for batch in (1, 2, 7):
        z, given = torch.rand(batch, 3), torch.zeros(batch, 3, dtype=torch.bool)
        satnet.mixing(S, z, given, torch.nn.functional.normalize(torch.randn(5, 4), dim=1), 2, 1e-4)
        assert host.launches[-1][1:3] == ("mixing", min(batch, 3))


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_have_a_cuda_kernel(name: str) -> None:
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    assert has(f"difflayers::{name}", "CUDA") and not has(f"difflayers::{name}", "XPU")


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_take_fake_cuda_tensors(dtype: torch.dtype) -> None:
    """Shapes, dtypes and devices, as torch.compile sees them on a CUDA device. (Autograd's own engine wants a real one.)"""

    def fake(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.zeros(shape, device="cuda", dtype=dtype)

    def same(result: Tensor, like: Tensor) -> bool:
        return result.device == like.device and result.shape == like.shape and result.dtype == like.dtype

    with FakeTensorMode():
        z, given = fake(4, 6), fake(4, 6, dtype=torch.bool)
        layer = SATNet(6, 7, 2, device="cuda", dtype=dtype)
        solved = layer.solve(z, given)
        assert same(solved.value, z) and solved.iterations.is_cuda and solved.iterations.shape == (4,)
        assert same(layer(z, given, start=solved.vectors), z)
        V, start = fake(4, 9, 8), fake(9, 8)
        U = torch.ops.difflayers.satnet_adjoint(
            layer.S, V, fake(4, 9), given, op.output_gradient(V, given, z), 1e-2, 40, 1e-4
        )
        assert same(U, V) and same(op.weight_gradient(layer.S, V, U), layer.S)
        assert same(op.input_gradient(layer.S, U, V, z, given, start), z)
        cost = fake(3, 4, 5)
        for matcher in (DMMMatching(), QuadraticMatching(0.1), DMMMatching(unmatched_cost=0.5)):
            assert same(matcher(cost, fake(4, dtype=torch.int64)), cost)
        X, bits = torch.ops.difflayers.dmm(cost, fake(3, 4, dtype=torch.bool), 40, 5, 0.1, True, False, True)
        assert same(bits, fake(3, 200, 5, dtype=torch.uint8))
        assert same(torch.ops.difflayers.dmm_adjoint(cost, bits, X, 40, 5, 0.1, True, False), cost)
        assert same(ExactMatching()(cost, fake(4, dtype=torch.int64)), cost)
        assert same(functional.assign(cost), fake(3, 4, dtype=torch.int64))
        assert same(torch.ops.difflayers.quadratic_adjoint(cost, fake(3, 5, dtype=torch.float64), cost), cost)


def test_other_devices_are_refused() -> None:
    class Elsewhere:
        device = torch.device("xpu", 0)

    with pytest.raises(ValueError, match=r"S must be on the CPU or a CUDA device.*got xpu:0: see difflayers\.backends"):
        check_device("S", Elsewhere())  # type: ignore[arg-type]


def test_without_the_extra_the_error_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('cuda.core'): raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "import torch\nfrom difflayers import _cuda\n_cuda._torch_device(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert "ImportError: a CUDA tensor needs cuda.core: pip install 'cuda-core[cu13]'" in done.stderr


def test_a_driver_that_does_not_work_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        __version__ = "1.2.3"

        @staticmethod
        def Device(index: int) -> Any:
            raise OSError("CUDA driver version is insufficient")

    monkeypatch.setattr(_cuda, "_core", lambda: Core)
    with pytest.raises(
        RuntimeError, match=r"cuda.core 1.2.3 \(CUDA driver version is insufficient\): install the NVIDIA"
    ):
        _cuda._TorchDevice(0)


def test_backends_say_why_cuda_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def row() -> Any:
        return {backend.name: backend for backend in difflayers.backends()}["cuda"]

    monkeypatch.setattr(torch.version, "cuda", None)
    assert not row().available and "built without CUDA" in row().detail
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (row().available, row().detail) == (False, "torch sees no CUDA device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    def fail(index: int) -> None:
        raise ImportError("CUDA tensors need cuda.core")

    monkeypatch.setattr(_cuda, "_torch_device", fail)
    assert (row().available, row().detail) == (False, "CUDA tensors need cuda.core")
    monkeypatch.setattr(_cuda, "_torch_device", lambda index: None)
    monkeypatch.setattr(_cuda, "describe", lambda: "a GPU")
    assert (row().available, row().detail) == (True, "a GPU")


class FakeCore:
    """cuda.core as far as launches use it: what it was asked for, in order."""

    __version__ = "1.2.3"
    LEGACY_DEFAULT_STREAM = "legacy"

    def __init__(self) -> None:
        self.compiled: list[tuple[_cuda.Program, str]] = []
        self.launched: list[tuple[Any, ...]] = []
        self.current: list[int] = []
        self.Stream = SimpleNamespace(from_handle=lambda handle: f"stream {handle}")

    def Device(self, index: int) -> Any:
        properties = SimpleNamespace(multiprocessor_count=7, max_shared_memory_per_block_optin=1000)
        return SimpleNamespace(
            properties=properties, compute_capability=(9, 0), set_current=lambda: self.current.append(index)
        )

    def LaunchConfig(self, **options: int) -> dict[str, int]:
        return options

    def launch(self, *args: Any) -> None:
        self.launched.append(args)

    def compile_and_keep(self, program: _cuda.Program, arch: str) -> Any:
        self.compiled.append((program, arch))
        occupancy = SimpleNamespace(max_active_blocks_per_multiprocessor=lambda threads, shared: 2)
        return SimpleNamespace(get_kernel=lambda name: SimpleNamespace(name=name, handle=5, occupancy=occupancy))


def test_kernels_are_loaded_once_and_launched_on_torchs_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="the extra cuda is not installed")
    core, guarded, allowed, stream = FakeCore(), list[int](), list[Any](), SimpleNamespace(cuda_stream=0)

    @contextmanager
    def guard(index: int) -> Iterator[None]:
        guarded.append(index)
        yield

    def allow(attribute: Any, value: int, kernel: Any, device: Any) -> tuple[Any]:
        allowed.append((attribute, value, int(kernel), int(device)))
        return (driver.CUresult.CUDA_SUCCESS,)

    monkeypatch.setattr(_cuda, "_core", lambda: core)
    monkeypatch.setattr(_cuda, "_compile_and_keep", core.compile_and_keep)
    monkeypatch.setattr(torch.cuda, "device", guard)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: stream)
    monkeypatch.setattr(driver, "cuKernelSetAttribute", allow)
    device, program = _cuda._TorchDevice(1), _cuda.program("dmm.cu", torch.float32, WARPS=1)
    assert (device.multiprocessors, device.shared_memory, device.arch) == (7, 1000, "sm_90")
    x = torch.zeros(2)
    assert device.resident(program, "dmm", 64, 500) == 14
    device.launch(program, "dmm", 3, 64, 500, (x, 4, 0.5))
    stream.cuda_stream = 99
    device.launch(program, "dmm_adjoint", 5, 32, 0, ())
    assert core.compiled == [(program, "sm_90")] and set(guarded) == set(core.current) == {1}
    dynamic = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert allowed == [(dynamic, 1000, 5, 1)] * 2
    (first, config, kernel, *args), (second, other, *_) = core.launched
    assert (first, second, kernel.name) == ("legacy", "stream 99", "dmm")
    assert config == {"grid": 3, "block": 64, "shmem_size": 500} and other == {"grid": 5, "block": 32, "shmem_size": 0}
    assert args == [x.data_ptr(), 4, 0.5] and [type(arg) for arg in args] == [int, np.int32, np.float64]


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = pytest.importorskip("cuda.core.utils", reason="the extra cuda is not installed")

    def refuse() -> None:
        raise PermissionError("read-only home")

    monkeypatch.setattr(utils, "FileStreamProgramCache", refuse)
    monkeypatch.setattr(_cuda, "compile_program", lambda *args: args)
    program = _cuda.program("dmm.cu", torch.float32, WARPS=1)
    assert _cuda._compile_and_keep(program, "sm_80") == (program, "sm_80")
