"""Blocks built as published families build them: Given one → Result the same function in as few convs as can be.

Among them the cases on which published "switch to deploy" code is wrong, or not exact, in silence.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from plainconv.exporter.errors import ReparamError
from plainconv.exporter.reparam import Report, reparameterize
from plainconv.exporter.source.randomize import randomized
from plainconv.exporter.to_onnx.export import onnx_from_module

Size = tuple[int, ...]
EVEN_AND_ODD: tuple[Size, ...] = ((8, 8), (9, 7), (10, 11), (13, 12))
SAME = 1e-10  # of the output's scale, in float64


def check_plain(
    module: nn.Module,
    channels: int,
    convs: int | None,
    norms: int = 0,
    sizes: Sequence[Size] = EVEN_AND_ODD,
    traced: Sequence[int] = (0, 1),
) -> tuple[fx.GraphModule, Report]:
    """Traced at an even and at an odd size, the plain network equals the module in float64 at every size and batch.

    `convs` and `norms` are what is left; None where only the function is at stake.
    """
    module = randomized(module, 0).double()
    for index in traced:
        plain, report = reparameterize(module, torch.randn(2, channels, *sizes[index], dtype=torch.float64))
        assert_same_function(module, plain, channels, sizes)
        if convs is not None:
            assert (report.counts_after["conv"], report.counts_after["norm"]) == (convs, norms), str(report)
        assert report.macs_after <= report.macs_before
    return plain, report


@torch.no_grad()
def assert_same_function(module: nn.Module, plain: nn.Module, channels: int, sizes: Sequence[Size]) -> None:
    """Equal in float64 at every size, for one image and for three."""
    generator = torch.Generator().manual_seed(3)
    for size in sizes:
        for batch in (1, 3):
            x = torch.randn(batch, channels, *size, dtype=torch.float64, generator=generator)
            want, got = module(x), plain(x)
            assert got.shape == want.shape
            assert float((got - want).abs().max()) <= SAME * (1 + float(want.abs().max())), (size, batch)


def codes(report: Report) -> set[str]:
    return {refusal.code for refusal in report.refusals}


def conv_norm(
    ins: int, outs: int, taps: int = 1, stride: int = 1, groups: int = 1, padding: int | None = None
) -> nn.Sequential:
    pad = taps // 2 if padding is None else padding
    return nn.Sequential(nn.Conv2d(ins, outs, taps, stride, pad, groups=groups, bias=False), nn.BatchNorm2d(outs))


class Sum(nn.Module):
    """Branches over one input, added."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return total


def rep_block(channels: int, groups: int = 1) -> Sum:
    """3×3 + 1×1 + norm over one input as RepVGG, ParNet and YOLOv7 use it."""
    return Sum(
        conv_norm(channels, channels, 3, groups=groups),
        conv_norm(channels, channels, groups=groups),
        nn.BatchNorm2d(channels),
    )


# ------------------------------------------------------------------ the kernel by hand


def scale_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """s = γ / √(var + eps), t = β − s·μ, in the norm's own precision."""
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - scale * norm.running_mean


def rep_kernel(block: Sum, groups: int) -> tuple[Tensor, Tensor]:
    """K = s₃·K₃ + s₁·K₁ + s₀·I, b = t₃ + t₁ + t₀. In group g the identity reads input c mod (C/groups)."""
    (conv3, norm3), (conv1, norm1), norm0 = block.branches
    (s3, t3), (s1, t1), (s0, t0) = map(scale_shift, (norm3, norm1, norm0))
    channels = len(s0)
    identity = torch.zeros_like(conv3.weight)
    row = torch.arange(channels)
    identity[row, row % (channels // groups), 1, 1] = 1
    kernel = conv3.weight * s3[:, None, None, None] + F.pad(conv1.weight * s1[:, None, None, None], (1, 1, 1, 1))
    return kernel + identity * s0[:, None, None, None], t3 + t1 + t0


def rounded_once(value: Tensor, exact: Tensor) -> bool:
    """Within half a unit in the last place: so is the exact value, rounded; a sum of rounded values is not."""
    half = torch.finfo(value.dtype).eps / 2
    return bool(((value.double() - exact).abs() <= half * (1 + 1e-6) * exact.abs()).all())


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_yolov7_repconv_with_groups_has_the_identity_of_each_group(groups: int) -> None:
    """A fused identity kernel that is one diagonal of the whole matrix is only right for one group."""
    block = rep_block(8, groups)
    plain, _ = check_plain(nn.Sequential(block, nn.SiLU()), 8, convs=1)
    kernel, bias = (p.detach() for p in plain.parameters())
    want_kernel, want_bias = (v.detach() for v in rep_kernel(block, groups))
    assert torch.allclose(kernel, want_kernel, rtol=0, atol=1e-14)
    assert torch.allclose(bias, want_bias, rtol=0, atol=1e-14)


def test_yolov7_stack_with_groups_and_a_stride() -> None:
    down = Sum(conv_norm(8, 16, 3, 2, groups=4), conv_norm(8, 16, 1, 2, groups=4))
    check_plain(nn.Sequential(rep_block(8, 4), nn.SiLU(), rep_block(8, 2), nn.SiLU(), down, nn.SiLU()), 8, convs=3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2])
def test_repvgg_block_is_rounded_once_to_its_dtype(dtype: torch.dtype, groups: int) -> None:
    """Given float32 or bfloat16 weights → Result their float64 kernel to the nearest; the block's own dtype is not."""
    block = randomized(rep_block(8, groups), 1).to(dtype)
    exact = [v.detach() for v in rep_kernel(copy.deepcopy(block).double(), groups)]
    own = [v.detach() for v in rep_kernel(block, groups)]
    plain, _ = reparameterize(nn.Sequential(block, nn.ReLU()).eval(), torch.randn(2, 8, 8, 8, dtype=dtype))
    merged = [p.detach() for p in plain.parameters()]
    assert {p.dtype for p in merged} == {dtype}
    assert rounded_once(merged[0], exact[0]) and rounded_once(merged[1], exact[1])
    assert not rounded_once(own[0], exact[0])


def test_dbb_and_repvit_chains_keep_float64_until_the_end() -> None:
    """1×1 + norm, then 1×1 + norm: K = s₂·K₂·(s₁·K₁) to the nearest, where products rounded to float32 drift."""
    first, second = randomized(conv_norm(8, 32), 2), randomized(conv_norm(32, 8), 3)
    plain, _ = reparameterize(nn.Sequential(first, second, nn.ReLU()).eval(), torch.randn(2, 8, 6, 6))
    merged = next(p.detach() for p in plain.parameters() if p.dim() == 4)

    def product(dtype: torch.dtype) -> Tensor:
        parts = [copy.deepcopy(part).to(dtype) for part in (first, second)]
        k1, k2 = (p[0].weight.detach()[:, :, 0, 0] * scale_shift(p[1])[0].detach()[:, None] for p in parts)
        return (k2 @ k1)[:, :, None, None]

    exact = product(torch.float64)
    assert merged.dtype == torch.float32
    assert rounded_once(merged, exact) and not rounded_once(product(torch.float32), exact)


# ------------------------------------------------------------------ refused, or right where a hook is wrong


class VanillaBlock(nn.Module):
    """1×1 + norm, LeakyReLU(slope), 1×1 + norm, pool, series activation as a depthwise conv (VanillaNet eq. 6)."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.first, self.second = conv_norm(channels, channels), conv_norm(channels, channels)
        self.series = nn.Sequential(nn.ReLU(), conv_norm(channels, channels, 7, groups=channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(F.leaky_relu(self.first(x), self.slope))
        return self.series(F.max_pool2d(x, 2))


@pytest.mark.parametrize(("slope", "convs"), [(1.0, 2), (0.5, 3), (0.999999, 3), (0.0, 3)])
def test_vanillanet_block_merges_at_slope_1_and_nowhere_else(slope: float, convs: int) -> None:
    _, report = check_plain(VanillaBlock(8, slope), 8, convs)
    assert ("SLOPE" in codes(report)) == (slope != 1)


@pytest.mark.parametrize("where", ["", "1", "0.branches.2"])
def test_a_network_in_train_mode_is_refused_and_left_as_it_is(where: str) -> None:
    net = nn.Sequential(rep_block(4), rep_block(4)).eval()
    net.get_submodule(where).train()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ReparamError, match=r"train mode.*\.eval\(\)"):
        reparameterize(net, torch.randn(2, 4, 8, 8))
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_sync_batch_norm_folds_like_any_other() -> None:
    net = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(rep_block(8, 2), nn.ReLU()))
    assert any(isinstance(m, nn.SyncBatchNorm) for m in net.modules())
    check_plain(net, 8, convs=1)


class FrozenNorm(nn.Module):
    """x·s + t with s, t computed from four buffers, as detection backbones freeze their norms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        for name, low in (("weight", 0.5), ("bias", -1.0), ("running_mean", -1.0), ("running_var", 0.5)):
            self.register_buffer(name, torch.empty(channels).uniform_(low, 2, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.reshape(1, -1, 1, 1) * (self.running_var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        return x * scale + (self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale)


def test_frozen_norm_folds_into_its_conv() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1, bias=False), FrozenNorm(8), nn.ReLU())
    plain, _ = check_plain(net, 4, convs=1)
    assert [type(m) for m in plain.children()] == [nn.Conv2d]
    assert not any(node.target in (torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor) for node in plain.graph.nodes)


def test_an_even_patch_conv_under_a_padded_conv_is_right_at_odd_sizes_too() -> None:
    """At H = 9 the pad of the 3×3 covers a patch that would still see row 8: one conv is only right at even H."""
    net = nn.Sequential(nn.Conv2d(2, 64, 2, 2, bias=False), nn.Conv2d(64, 2, 3, padding=1, bias=False), nn.ReLU())
    _, report = check_plain(net, 2, convs=2)
    assert "BORDER_WINDOW" in codes(report)


def test_weights_lie_in_memory_in_their_own_order_and_onnx_needs_no_node_to_undo_it(tmp_path: Path) -> None:
    """Composing transposes kernels; a weight left so becomes Gather, Range, Shape or Transpose nodes in the file."""
    chain = nn.Sequential(conv_norm(4, 8, 2, padding=0), conv_norm(8, 4), nn.ReLU())
    net = nn.Sequential(chain, Sum(conv_norm(4, 4), conv_norm(4, 4)), nn.ReLU(), rep_block(4, 2))
    net = randomized(net, 0).to(memory_format=torch.channels_last)
    plain, _ = reparameterize(net, torch.randn(1, 4, 8, 8))
    assert all(p.is_contiguous() for p in (*plain.parameters(), *plain.buffers()))
    onnx_from_module(plain, torch.randn(1, 4, 8, 8), tmp_path / "plain.onnx", dynamic_batch=True)
    assert {node.op_type for node in onnx.load(tmp_path / "plain.onnx").graph.node} <= {"Conv", "Relu"}


class Shuffled(nn.Module):
    """A merged block under ParNet's channel shuffle, written with `view`, which needs its input in C order."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = rep_block(8, 2), conv_norm(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.block(x))
        n, c, h, w = x.shape
        return F.relu(self.last(x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)))


def test_a_channel_shuffle_by_views_still_runs() -> None:
    check_plain(Shuffled(), 8, convs=2)


class FixedSize(nn.Module):
    """A head that fits one size alone: its flattened maps must have as many elements as the Linear reads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm(4, 8, 3, 2), nn.ReLU(), nn.AvgPool2d(4))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x.view(x.size(0), -1))


def test_a_network_that_takes_one_size_alone_still_takes_any_batch() -> None:
    check_plain(FixedSize(), 4, convs=1, sizes=[(8, 8)], traced=[0])


class WholeMapGate(nn.Module):
    """A gate on the mean of the map, by a pool whose kernel is the map's own size (MobileOne, FastViT)."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.gate = Sum(conv_norm(4, 4, 3, 2), conv_norm(4, 4, 1, 2)), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.block(x))
        height, width = x.shape[2:]
        return x * self.gate(F.avg_pool2d(x, kernel_size=[height, width])).sigmoid()


@torch.no_grad()
def test_a_pool_of_the_whole_map_is_right_or_refuses_at_other_sizes() -> None:
    """A kernel that a trace wrote down as 4×4 is a mean over less than a larger map."""
    module = randomized(WholeMapGate(), 0).double()
    plain, report = reparameterize(module, torch.randn(2, 4, 8, 8, dtype=torch.float64))
    assert report.counts_after["conv"] == 2
    assert_same_function(module, plain, 4, [(8, 8)])
    for size in ((10, 10), (16, 16), (7, 9), (6, 8)):
        x = torch.randn(2, 4, *size, dtype=torch.float64)
        try:
            got = plain(x)
        except (RuntimeError, ReparamError):
            continue
        assert got.shape == module(x).shape and torch.allclose(got, module(x), rtol=0, atol=SAME)


# ------------------------------------------------------------------ blocks of MobileOne, RepViT, FastViT, RepGhost


@pytest.mark.parametrize(("stride", "groups"), [(1, 8), (2, 8), (1, 1), (2, 1)])
def test_mobileone_block_is_one_conv(stride: int, groups: int) -> None:
    """k times 3×3 + norm, a 1×1 + norm as the scale and, at stride 1, a norm as the skip."""
    branches = [conv_norm(8, 8, 3, stride, groups) for _ in range(3)] + [conv_norm(8, 8, 1, stride, groups)]
    skip = [nn.BatchNorm2d(8)] if stride == 1 else []
    check_plain(nn.Sequential(Sum(*skip, *branches), nn.ReLU()), 8, convs=1)


class RepViTBlock(nn.Module):
    """norm(dw 3×3 + norm + dw 1×1 + x), then x + (1×1 + norm, GELU, 1×1 + norm)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = conv_norm(channels, channels, 3, groups=channels)
        self.mixer = Sum(wide, nn.Conv2d(channels, channels, 1, groups=channels), nn.Identity())
        self.norm = nn.BatchNorm2d(channels)
        self.tokens = nn.Sequential(conv_norm(channels, 2 * channels), nn.GELU(), conv_norm(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.mixer(x))
        return x + self.tokens(x)


def test_repvit_block_is_one_depthwise_and_two_1x1() -> None:
    plain, _ = check_plain(RepViTBlock(8), 8, convs=3)
    assert sorted(p.shape for p in plain.parameters() if p.dim() == 4) == [(8, 1, 3, 3), (8, 16, 1, 1), (16, 8, 1, 1)]


class DistilledHead(nn.Module):
    """The mean of two heads, each a norm and a Linear, on pooled features (RepViT, DeiT)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Sequential(nn.BatchNorm1d(channels), nn.Linear(channels, 6)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return (self.heads[0](x) + self.heads[1](x)) / 2


def test_two_distilled_heads_become_one_linear() -> None:
    _, report = check_plain(DistilledHead(8), 8, convs=0)
    assert report.counts_after["linear"] == 1


class FastViTBlock(nn.Module):
    """x + γ₁·(rep(x) − norm(x)), then x + γ₂·FFN(x), FFN = dw 7×7 + norm, 1×1, GELU, 1×1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.norm = nn.BatchNorm2d(c)
        self.rep = Sum(nn.BatchNorm2d(c), conv_norm(c, c, 3, groups=c), conv_norm(c, c, 1, groups=c))
        self.ffn = nn.Sequential(
            conv_norm(c, c, 7, groups=c), nn.Conv2d(c, 3 * c, 1), nn.GELU(), nn.Dropout(), nn.Conv2d(3 * c, c, 1)
        )
        self.scale1, self.scale2 = (nn.Parameter(torch.full((c, 1, 1), 0.1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1 * (self.rep(x) - self.norm(x))
        return x + self.scale2 * self.ffn(x)


def test_fastvit_block_folds_its_norms_and_layer_scales() -> None:
    """One depthwise 3×3 mixes; the 7×7 under the 1×1 stays apart, for merging it would cost more than both."""
    plain, report = check_plain(FastViTBlock(8), 8, convs=4)
    taps = sorted(p.shape[2] for p in plain.parameters() if p.dim() == 4)
    assert taps == [1, 1, 3, 7] and "COST" in codes(report)


class RepGhost(nn.Module):
    """Two RepGhost modules (dw 3×3 + norm beside a norm, after a 1×1), a depthwise stride between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.up = nn.Sequential(conv_norm(c, 2 * c), nn.ReLU(inplace=True))
        self.cheap1 = Sum(conv_norm(2 * c, 2 * c, 3, groups=2 * c), nn.BatchNorm2d(2 * c))
        self.down = conv_norm(2 * c, 2 * c, 3, 2, groups=2 * c)
        self.narrow = conv_norm(2 * c, c)
        self.cheap2 = Sum(conv_norm(c, c, 3, groups=c), nn.BatchNorm2d(c))
        self.shortcut = nn.Sequential(conv_norm(c, c, 3, 2, groups=c), conv_norm(c, c))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.cheap1(self.up(x)), inplace=True)
        return self.cheap2(self.narrow(self.down(y))) + self.shortcut(x)


def test_repghost_bottleneck_has_no_norm_left() -> None:
    """Published code leaves the norms of its plain convs; what is linear and shifted under padding stays apart."""
    _, report = check_plain(RepGhost(8), 8, convs=7)
    assert "BORDER_BIAS" in codes(report)


# ------------------------------------------------------------------ ACNet


class Cross(nn.Module):
    """k×k + 1×k + k×1, each with its norm; a cross of a smaller padding crops its input instead."""

    def __init__(self, taps: int, padding: int, mode: str = "zeros") -> None:
        super().__init__()
        less = padding - taps // 2
        self.crop, side = max(0, -less), max(0, less)
        pads = {(taps, taps): (padding, padding), (1, taps): (side, padding), (taps, 1): (padding, side)}
        self.square, self.wide, self.tall = (
            nn.Sequential(nn.Conv2d(4, 8, k, 1, p, bias=False, padding_mode=mode), nn.BatchNorm2d(8))
            for k, p in pads.items()
        )

    def forward(self, x: Tensor) -> Tensor:
        tall = wide = x
        if self.crop:
            tall, wide = x[:, :, :, self.crop : -self.crop], x[:, :, self.crop : -self.crop, :]
        return F.relu(self.square(x) + self.tall(tall) + self.wide(wide))


@pytest.mark.parametrize(("taps", "padding"), [(3, 1), (3, 0), (5, 2), (5, 1), (3, 2)])
def test_acnet_cross_is_one_conv(taps: int, padding: int) -> None:
    plain, _ = check_plain(Cross(taps, padding), 4, convs=1)
    assert [p.shape for p in plain.parameters() if p.dim() == 4] == [(8, 4, taps, taps)]


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
@pytest.mark.parametrize(("taps", "padding"), [(3, 1), (5, 2)])
def test_acnet_cross_with_another_padding_mode_is_one_conv(mode: str, taps: int, padding: int) -> None:
    plain, _ = check_plain(Cross(taps, padding, mode), 4, convs=1, traced=[0])
    assert [p.shape for p in plain.parameters() if p.dim() == 4] == [(8, 4, taps, taps)]


def test_a_1x1_and_a_skip_beside_a_circular_conv_join_it() -> None:
    """They read no border, so they do not mind how it is filled."""
    circular = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False, padding_mode="circular"), nn.BatchNorm2d(4))
    check_plain(nn.Sequential(Sum(circular, conv_norm(4, 4), nn.BatchNorm2d(4), nn.Identity()), nn.ReLU()), 4, convs=1)


class MixedModes(nn.Module):
    """Two branches that extend their input differently: no one conv computes them."""

    def __init__(self, *modes: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode) for mode in modes)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branches[0](x) + self.branches[1](x))


@pytest.mark.parametrize("modes", [("zeros", "circular"), ("circular", "reflect"), ("replicate", "reflect")])
def test_branches_of_different_padding_modes_stay_apart(modes: tuple[str, str]) -> None:
    check_plain(MixedModes(*modes), 4, convs=2)


# ------------------------------------------------------------------ DBB


class NormAndPad(nn.Module):
    """A norm whose border is filled with what it makes of zero, by writes into slices (DBB), or with `value`.

    The writes cover `width` rows and columns at the sides named, a margin of `pad` is added before.
    """

    def __init__(
        self, channels: int, pad: int = 1, width: int = 1, sides: str = "tblr", value: float | None = None
    ) -> None:
        super().__init__()
        self.norm, self.pad, self.width, self.sides, self.value = nn.BatchNorm2d(channels), pad, width, sides, value

    def forward(self, x: Tensor) -> Tensor:
        norm, w = self.norm, self.width
        y = F.pad(norm(x), [self.pad] * 4)
        fill = norm.bias.detach() - norm.running_mean * norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
        fill = fill.view(1, -1, 1, 1) if self.value is None else torch.full_like(fill, self.value).view(1, -1, 1, 1)
        if "t" in self.sides:
            y[:, :, 0:w, :] = fill
        if "b" in self.sides:
            y[:, :, -w:, :] = fill
        if "l" in self.sides:
            y[:, :, :, 0:w] = fill
        if "r" in self.sides:
            y[:, :, :, -w:] = fill
        return y


class DiverseBranches(nn.Module):
    """k×k, 1×1, 1×1 then k×k, and 1×1 then average, each with norms; added in place."""

    def __init__(self, channels: int, taps: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        c, k, s, g, p = channels, taps, stride, groups, taps // 2
        self.plain, self.narrow = conv_norm(c, c, k, s, g), conv_norm(c, c, 1, s, g)
        first, second = nn.Conv2d(c, c, 1, groups=g, bias=False), conv_norm(c, c, k, s, g, padding=0)
        self.chain = nn.Sequential(first, NormAndPad(c, p, p), second)
        first = nn.Conv2d(c, c, 1, groups=g, bias=False)
        self.mean = nn.Sequential(first, NormAndPad(c, p, p), nn.AvgPool2d(k, s), nn.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        out = self.plain(x)
        out += self.narrow(x)
        out += self.mean(x)
        out += self.chain(x)
        return F.relu(out)


@pytest.mark.parametrize(
    ("taps", "stride", "groups"),
    [(5, 2, 2), *(pytest.param(*c, marks=pytest.mark.slow) for c in [(3, 1, 1), (3, 2, 1), (3, 1, 4)])],
)
def test_diverse_branch_block_is_one_conv(taps: int, stride: int, groups: int) -> None:
    plain, _ = check_plain(DiverseBranches(4, taps, stride, groups), 4, convs=1, traced=[stride - 1])
    assert [p.shape for p in plain.parameters() if p.dim() == 4] == [(4, 4 // groups, taps, taps)]


@pytest.mark.parametrize(
    "layer",
    [
        NormAndPad(4, value=0.5),  # another constant than the norm's own zero
        pytest.param(NormAndPad(4, sides="tbl"), marks=pytest.mark.slow),  # a border left at zero
        pytest.param(NormAndPad(4, pad=2), marks=pytest.mark.slow),  # a border partly left at zero
        pytest.param(NormAndPad(4, pad=0), marks=pytest.mark.slow),  # over the values themselves
        NormAndPad(4, pad=1, width=2),  # over the border and the values beside it
    ],
    ids=["other value", "three sides", "too narrow", "no border", "too wide"],
)
def test_border_writes_that_are_not_a_padded_norm_stay_what_they_are(layer: NormAndPad) -> None:
    conv = nn.Conv2d(4, 4, 1, bias=False)
    check_plain(nn.Sequential(conv, layer, conv_norm(4, 4, 3, padding=0), nn.ReLU()), 4, convs=2, traced=[1])
