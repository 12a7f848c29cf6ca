"""The fast linear layers, against the exact ones: how far they may be off, and that they are really used."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="kbqa[glm] is not installed")

from glmkit import Case, cases  # noqa: E402
from torch import nn  # noqa: E402

from kbqa.chatglm import kernels, load_chatglm  # noqa: E402
from kbqa.chatglm.kernels import Compiled4, Compiled8, Int4, Int8, Reordered, TwoDigits, faster  # noqa: E402
from kbqa.chatglm.quantization import GroupedLinear, QuantizedLinear  # noqa: E402

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
ROWS, COLUMNS = 320, 512
COUNTS = pytest.mark.parametrize("count", [1, 2, 9, kernels.MANY, 200])


def matrix(seed: int = 0) -> torch.Tensor:
    """Bell-shaped, with one column in four hundred that is ten times as large, as trained models have them."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(ROWS, COLUMNS, generator=generator) * 0.02
    weight[torch.rand(ROWS, COLUMNS, generator=generator) < 1 / 400] *= 10
    return weight


def incoming(count: int) -> torch.Tensor:
    """With an outlier that is three hundred times what else is there."""
    x = torch.randn(count, COLUMNS, generator=torch.Generator().manual_seed(1))
    x[0, 7] = 300
    return x


def quantized(kind: type[nn.Module], bits: int, bias: bool = True) -> nn.Module:
    linear = nn.Linear(COLUMNS, ROWS, bias=bias)
    layer = kind(linear, bits)
    layer.fill(matrix())
    return layer.requires_grad_(False)


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest of the rows', relative to the row."""
    return float(((got - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())


def needs(kind: type[nn.Module]) -> None:
    form = kernels._Form({Reordered: None, Compiled4: 4, Int4: 4}.get(kind, 8), 0, bias=True)
    if not kernels._right(kind, form, torch.device("cpu"), torch.bfloat16):
        pytest.skip(f"{kind.__name__} does not work on this processor or with this torch")


BITS = pytest.mark.parametrize(
    ("fast_kind", "kind", "bits"),
    [(Compiled4, GroupedLinear, 4), (Compiled4, QuantizedLinear, 4), (Compiled8, QuantizedLinear, 8)],
)


@COUNTS
@BITS
def test_compiled_products_are_closer_than_bfloat16_could_be_whatever_outliers_come_in(fast_kind, kind, bits, count):
    needs(fast_kind)
    layer, x = quantized(kind, bits), incoming(count)
    fast = faster(layer, torch.bfloat16)
    assert isinstance(fast, fast_kind)
    assert error(fast(x), layer(x)) < 4e-4
    assert error(fast(x)[1:], layer(x)[1:]) < 1e-4 if count > 1 else True
    assert fast(x.bfloat16()[None]).dtype == torch.bfloat16
    assert fast(x[None]).shape == (1, count, ROWS)


@pytest.mark.parametrize("columns", [32, 64, 96, 13 * 128, 4096])
@BITS
def test_compiled_products_bear_the_largest_numbers_in_groups_of_any_size(fast_kind, kind, bits, columns):
    needs(fast_kind)
    layer = kind(nn.Linear(columns, 48, bias=False), bits)
    layer.fill(torch.ones(48, columns) * torch.tensor([1.0, -1.0] * 24)[:, None])
    x = torch.stack([torch.ones(columns), -torch.ones(columns), torch.zeros(columns)])
    torch.testing.assert_close(fast_kind(layer)(x), layer(x), atol=0, rtol=1e-4)


@BITS
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_none_and_spoils_no_other_row(fast_kind, kind, bits, bad):
    needs(fast_kind)
    fast, x = faster(quantized(kind, bits), torch.bfloat16), incoming(5)
    spoilt = x.clone()
    spoilt[2, 100] = bad
    got = fast(spoilt)
    assert got[2].isnan().all()
    torch.testing.assert_close(got[[0, 1, 3, 4]], fast(x)[[0, 1, 3, 4]], atol=0, rtol=0)


def test_compiled_products_may_be_computed_by_several_threads_at_once():
    needs(Compiled4)
    fast, x = faster(quantized(GroupedLinear, 4), torch.bfloat16), incoming(9)
    wanted = fast(x)
    with ThreadPoolExecutor(4) as threads:
        for got in threads.map(lambda _: [fast(x) for _ in range(25)][-1], range(4)):
            torch.testing.assert_close(got, wanted, atol=0, rtol=0)


def plain() -> nn.Module:
    return nn.Linear(COLUMNS, ROWS).to(torch.bfloat16).requires_grad_(False)


FAST = {
    Compiled4: lambda: quantized(GroupedLinear, 4),
    Compiled8: lambda: quantized(QuantizedLinear, 8),
    TwoDigits: lambda: quantized(QuantizedLinear, 8),
    Int8: lambda: quantized(QuantizedLinear, 8),
    Int4: lambda: quantized(GroupedLinear, 4),
    Reordered: plain,
}


@pytest.mark.parametrize("kind", FAST)
def test_rows_of_another_width_are_an_error_that_names_both(kind):
    needs(kind)
    fast = kind(FAST[kind]())
    for width in (0, 1, COLUMNS - 2, COLUMNS // 2, COLUMNS * 2):
        for shape in ((width,), (1, width), (3, width), (0, width), (2, 3, width)):
            with pytest.raises(RuntimeError, match=f"{width} numbers .* matrix of {COLUMNS} columns"):
                fast(torch.zeros(shape, dtype=torch.bfloat16))


@pytest.mark.parametrize("kind", FAST)
def test_who_would_train_on_the_fast_path_is_told_to_load_the_exact_one(kind):
    needs(kind)
    fast = kind(FAST[kind]())
    with pytest.raises(RuntimeError, match="exact=True"):
        fast(torch.ones(2, COLUMNS, requires_grad=True))


@pytest.mark.parametrize("kind", FAST)
def test_no_rows_and_rows_in_any_shape_give_what_the_exact_layer_gives(kind):
    needs(kind)
    layer = FAST[kind]()
    fast = kind(layer)
    for shape in ((0,), (1, 0), (0, 3), (), (1,), (1, 1), (2, 3)):
        x = torch.ones(*shape, COLUMNS, dtype=layer.bias.dtype)
        got, wanted = fast(x), layer(x)
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        torch.testing.assert_close(got, wanted, atol=0.05, rtol=0.02)


def test_models_of_all_kinds_may_be_computed_at_once():
    """Each in threads of its own, as several models in one service are."""
    needs(Compiled4)
    needs(Reordered)
    layers = [faster(FAST[kind](), torch.bfloat16) for kind in (Compiled4, Compiled8, Reordered)] * 2
    inputs = [incoming(1).bfloat16(), incoming(9).bfloat16()]
    wanted = [[layer(x) for x in inputs] for layer in layers]
    with ThreadPoolExecutor(len(layers)) as threads:
        found = list(threads.map(lambda layer: [[layer(x) for x in inputs] for _ in range(20)], layers))
    for these, those in zip(found, wanted, strict=True):
        assert all(torch.equal(got, it) for round in these for got, it in zip(round, those, strict=True))


BROKEN = {
    "a NumPy that does not fit": ("raise SystemError('initialization of _internal failed')", {}),
    "an LLVM that does not load": ("raise RuntimeError('libLLVM.so cannot be found')", {}),
    "a Numba that refuses NumPy": ("raise ImportError('Numba needs NumPy 2.4 or less')", {}),
    "a Numba that compiles nothing": (None, {"NUMBA_DISABLE_JIT": "1"}),
}
LAYERS = """
import torch
from torch import nn
from kbqa.chatglm.kernels import faster
from kbqa.chatglm.quantization import GroupedLinear, QuantizedLinear
for kind, bits in ((GroupedLinear, 4), (QuantizedLinear, 8), (None, 16)):
    layer = nn.Linear(256, 192).to(torch.bfloat16).requires_grad_(False)
    if kind:
        weight, layer = layer.weight, kind(layer, bits)
        layer.fill(weight)
    fast = faster(layer, torch.bfloat16)
    x = torch.ones(1, 256, dtype=torch.bfloat16)
    assert torch.allclose(fast(x).float(), layer(x).float(), atol=0.05)
    print(type(fast).__name__)
"""


@pytest.mark.parametrize(("broken", "environment"), BROKEN.values(), ids=BROKEN)
def test_a_numba_that_does_not_work_costs_speed_alone_and_is_told_of_once(tmp_path, broken, environment):
    needs(Compiled4)
    needs(Reordered)
    if broken:
        (tmp_path / "numba").mkdir()
        (tmp_path / "numba" / "__init__.py").write_text(broken)
    paths = os.pathsep.join([str(tmp_path), str(Path(kernels.__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", LAYERS],
        env={**os.environ, **environment, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Int4", "TwoDigits", "Reordered"]
    assert done.stderr.count("Numba does not work here") == 1
    assert done.stderr.count("\n") == 1


def test_layers_on_other_devices_do_not_import_numba():
    code = (
        "import sys, torch; from torch import nn; from kbqa.chatglm.kernels import Compiled4, Compiled8, _made\n"
        "from kbqa.chatglm.quantization import QuantizedLinear\n"
        "for kind, bits in ((Compiled4, 4), (Compiled8, 8)):\n"
        "    with torch.device('meta'): layer = QuantizedLinear(nn.Linear(256, 192), bits)\n"
        "    assert _made(kind, layer) is None\n"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path(kernels.__file__).parents[2])


def test_without_numba_layers_take_torchs_own_kernels(monkeypatch):
    needs(Int4)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "kbqa.chatglm.compiled", raising=False)
    monkeypatch.delattr("kbqa.chatglm.compiled", raising=False)
    for name in ("_right", "_compiled"):
        monkeypatch.setattr(kernels, name, getattr(kernels, name).__wrapped__)
    assert isinstance(faster(quantized(GroupedLinear, 4), torch.bfloat16), Int4)
    assert not isinstance(faster(quantized(QuantizedLinear, 8), torch.bfloat16), Compiled8 | QuantizedLinear)
    linear = nn.Linear(COLUMNS, ROWS).to(torch.bfloat16).requires_grad_(False)
    x = incoming(1).bfloat16()
    assert error(faster(linear, torch.bfloat16)(x).float(), linear(x).float()) < 5e-3


@COUNTS
def test_int8_in_two_digits_is_closer_than_bfloat16_could_be_whatever_outliers_come_in(count):
    needs(TwoDigits)
    layer, x = quantized(QuantizedLinear, 8), incoming(count)
    fast = TwoDigits(layer)
    assert error(fast(x), layer(x)) < 1e-3
    assert error(fast(x)[1:], layer(x)[1:]) < 1e-4 if count > 1 else True


@pytest.mark.parametrize("kind", [TwoDigits, Compiled8])
def test_a_row_gets_the_same_whoever_stands_beside_it(kind):
    needs(kind)
    fast, x = kind(quantized(QuantizedLinear, 8)), incoming(9)
    torch.testing.assert_close(fast(x)[3:4], fast(x[3:4]), atol=0, rtol=0)


@COUNTS
def test_torchs_int8_kernel_is_as_close_as_bfloat16_is(count):
    needs(Int8)
    layer, x = quantized(QuantizedLinear, 8), incoming(count)
    assert error(Int8(layer)(x), layer(x)) < 5e-3


@COUNTS
@pytest.mark.parametrize("kind", [QuantizedLinear, GroupedLinear])
def test_int4_is_as_close_as_bfloat16_is(kind, count):
    needs(Int4)
    layer, x = quantized(kind, 4), incoming(count)
    assert error(Int4(layer)(x), layer(x)) < 8e-3


@COUNTS
def test_bfloat16_reordered_gives_what_it_gave(count):
    needs(Reordered)
    layer, x = nn.Linear(COLUMNS, ROWS).to(torch.bfloat16).requires_grad_(False), incoming(count).bfloat16()
    fast = faster(layer, torch.bfloat16)
    assert isinstance(fast, Reordered)
    assert error(fast(x).float(), layer(x).float()) < 5e-3


def test_one_row_in_bfloat16_is_no_farther_off_than_its_last_rounding():
    needs(Reordered)
    needs(Compiled4)
    layer, x = nn.Linear(COLUMNS, ROWS).to(torch.bfloat16).requires_grad_(False), incoming(1).bfloat16()
    fast = faster(layer, torch.bfloat16)
    assert fast.row_product is not None
    got, exact = fast(x).float(), layer.double()(x.double()).float()
    # A number of 8 bits is off by 2 ** -8 of itself at most. Of the sums, which are near 100, float32 keeps 1e-5.
    assert ((got - exact).abs() <= exact.abs() * 2**-8 + 1e-4).all()
    assert error(got, exact) < 2e-3


def test_a_layer_of_a_shape_that_the_kernels_do_not_take_stays_as_it_is_and_works():
    layer = QuantizedLinear(nn.Linear(30, 7), 4)
    layer.fill(torch.randn(7, 30))
    assert faster(layer, torch.bfloat16) is layer
    assert layer(torch.randn(2, 30)).shape == (2, 7)


def test_four_bits_in_groups_keep_far_more_of_a_matrix_than_four_bits_in_rows():
    weight, eye = matrix(), torch.eye(COLUMNS)
    by_row, by_group = (quantized(kind, 4, bias=False)(eye).T for kind in (QuantizedLinear, GroupedLinear))
    lost = [float((it - weight).norm() / weight.norm()) for it in (by_row, by_group)]
    assert lost[1] < 0.1 < 0.25 < lost[0]


def test_a_group_of_equal_weights_is_kept():
    layer = GroupedLinear(nn.Linear(64, 2, bias=False))
    layer.fill(torch.tensor([[0.0] * 32 + [0.5] * 32, [-3.0] * 64]))
    torch.testing.assert_close(layer(torch.eye(64)).T[:, [0, 40]], torch.tensor([[0.0, 0.5], [-3.0, -3.0]]))


@pytest.mark.skipif(not list(cases()), reason="the reference vectors are not here (KBQA_TESTDATA)")
@pytest.mark.parametrize("case", list(cases("base", "int8", "int4", "int4_emb")), ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_fast_path_is_no_farther_from_the_original_than_bfloat16_is(case: Case, dtype):
    (wanted,) = case.tensors["single.logits"]
    ids = case.tensors["single.input_ids"].tolist()
    (fast,) = load_chatglm(case.folder, dtype=dtype, exact=False).logits(ids)
    (rounded,) = load_chatglm(case.folder, dtype="bfloat16", exact=True).logits(ids)
    lost, unavoidable = (error(it.flatten()[None], wanted.flatten()[None]) for it in (fast, rounded))
    print(f"{case} {dtype}: {lost:.4f} against {unavoidable:.4f}")
    assert lost < 1.5 * unavoidable
    if dtype == "float32" and case.kind in ("base", "int8"):
        assert lost < 0.005


@pytest.mark.skipif(not list(cases()), reason="the reference vectors are not here (KBQA_TESTDATA)")
@pytest.mark.parametrize("case", list(cases("base")), ids=str)
@pytest.mark.parametrize("bits", [8, 4])
def test_quantizing_on_the_fast_path_stays_nearer_to_the_full_model_than_published_weights(case, bits):
    (wanted,) = case.tensors["single.logits"]
    ids = case.tensors["single.input_ids"].tolist()
    lost = {}
    for exact in (True, False):
        (got,) = load_chatglm(case.folder, quantize=bits, exact=exact).logits(ids)
        lost[exact] = error(got.flatten()[None], wanted.flatten()[None])
    assert lost[False] < lost[True] * 1.02 + 0.002


def test_layers_are_fast_in_bfloat16_and_exact_in_float32_unless_told_otherwise():
    some = next(cases("base"), None)
    if some is None:
        pytest.skip("the reference vectors are not here (KBQA_TESTDATA)")
    needs(Reordered)
    fast, slow = load_chatglm(some.folder, dtype="bfloat16"), load_chatglm(some.folder)
    told = load_chatglm(some.folder, dtype="bfloat16", exact=True)
    kinds = [type(model.decoder.blocks[0].up) for model in (fast, slow, told)]
    assert kinds == [Reordered, nn.Linear, nn.Linear]


@pytest.fixture
def bench(monkeypatch):
    pytest.importorskip("psutil")
    path = Path(__file__).parents[1] / "scripts" / "bench_glm_gpu.py"
    spec = importlib.util.spec_from_file_location("bench_glm_gpu", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_glm_gpu", module)
    spec.loader.exec_module(module)
    for name, small in {"BATCHES": (1, 2), "READ": 32, "STEPS": 2, "STREAMS": 3, "TOKENS": 8}.items():
        monkeypatch.setattr(module, name, small)
    return module


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])
def test_the_benchmark_for_gpus_measures_a_small_shape_too(bench, capsys, device):
    """Mistakes in it should not be found only where GPUs are dear."""
    small = ["--device", device, "--shape", "tiny", "--turns", "25"]
    bench.main([*small, "--kind", "float16", "--kind", "int4", "--graphs"])
    told = capsys.readouterr().out
    for kind in ("float16", "int4"):
        (row,) = [line.split("|") for line in told.splitlines() if line.startswith(f"| {kind} ")]
        off, prefill, first, second = (float(cell) for cell in row[3:7])
        assert off < 0.02
        assert min(prefill, first, second) > 0
        assert f"{kind}: 3 streams at once: 3 of 3 whole" in told
        assert f"{kind}: memory after 25 turns: " in told


def test_without_a_gpu_the_benchmark_for_gpus_says_so(bench, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="there is no CUDA GPU"):
        bench.main([])
