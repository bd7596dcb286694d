"""Convolutions in float64 of which PyTorch has no quick kernel: depthwise ones, and large ones of few positions."""

from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 64  # columns of the map of a depthwise convolution
FEW = 64  # positions of all images; of more, a product for each image is as quick


def convolved(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor | None:
    """A convolution with the arguments of aten.convolution; None where PyTorch's own kernel serves."""
    if transposed or x.dim() != 4 or not len(stride) == len(padding) == len(dilation) == 2:
        return None
    if w.shape[0] == x.shape[1] == groups > 1:
        return depthwise(x, w, b, stride, padding, dilation) if bool(x.isfinite().all()) else None
    sizes = map_sizes(x, w, stride, padding, dilation)
    if min(sizes) < 1 or not 0 < len(x) * prod(sizes) <= FEW:
        return None
    return on_few_positions(x, w, b, stride, padding, dilation, groups, sizes)


def map_sizes(x: Tensor, w: Tensor, stride: list[int], padding: list[int], dilation: list[int]) -> list[int]:
    """(n + 2·p − d·(k − 1) − 1) // s + 1 on each axis: the map that a convolution gives, below 1 if it does not fit."""
    axes = zip(x.shape[2:], w.shape[2:], stride, padding, dilation, strict=True)
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]


def on_few_positions(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    sizes: list[int],
) -> Tensor:
    """y[p] = b + W·x_p, x_p the patch at p: patches times weights, so that each weight is read once for all images.

    PyTorch multiplies weights by patches, image by image, and rearranges the weights each time.
    """
    patches_NKL = F.unfold(x, w.shape[2:], tuple(dilation), tuple(padding), tuple(stride))
    images, _, places = patches_NKL.shape
    patches_GPK = (
        patches_NKL.reshape(images, groups, -1, places).permute(1, 0, 3, 2).reshape(groups, images * places, -1)
    )
    y_GPO = torch.bmm(patches_GPK, w.reshape(groups, len(w) // groups, -1).transpose(1, 2))
    y = y_GPO.reshape(groups, images, places, -1).permute(1, 0, 3, 2).reshape(images, len(w), *sizes)
    return (y if b is None else y + b[:, None, None]).contiguous()


def depthwise(
    x: Tensor, w: Tensor, b: Tensor | None, stride: list[int], padding: list[int], dilation: list[int]
) -> Tensor:
    """y[n,c,p,q] = b[c] + Σ_i Σ_h x[n,c, s·p + d·i, h]·B[i,c,h,q], B[i,c, s·q + d·j, q] = w[c,0,i,j], x padded.

    A matrix product a channel and row of the kernel, `TILE` columns of the map at a time: PyTorch has no float64 kernel
    for it and runs one small conv a channel. The map must be finite, as 0·∞ is no 0.
    """
    rows, columns = map_sizes(x, w, stride, padding, dilation)
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    y = x.new_zeros(*x.shape[:2], rows, columns)
    if b is not None:
        y += b[:, None, None]
    tile = min(TILE, columns)
    band = x.new_zeros(w.shape[2], x.shape[1], stride[1] * (tile - 1) + dilation[1] * (w.shape[3] - 1) + 1, tile)
    row, channel, column, _ = band.stride()
    diagonals = (*w.shape[2:], x.shape[1], tile), (row, dilation[1] * column, channel, stride[1] * column + 1)
    band.as_strided(*diagonals).copy_(w[:, 0].permute(1, 2, 0)[..., None])
    for x_CHW, y_CHW in zip(x, y, strict=True):
        for i, band_CHW in enumerate(band):
            read = x_CHW[:, i * dilation[0] :: stride[0]][:, :rows]
            for start in range(0, columns, tile):
                some = read[..., stride[1] * start :][..., : band.shape[2]]
                part = y_CHW[..., start : start + tile]
                part.baddbmm_(some, band_CHW[:, : some.shape[2], : part.shape[2]])
    return y
