"""A forward that asks for a size, or for what may depend on one, is seen to; one that does not is let through."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack

from plainconv.exporter.reparam import reparameterize
from plainconv.exporter.reparam.sizes_read import SizeReadError, sizes_hidden

X = torch.randn(2, 4, 8, 8)


class Calling(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


def swallowed(x: Tensor) -> Tensor:
    try:
        height = x.shape[2]
    except Exception:
        height = 8
    return x * height


def counted(x: Tensor) -> Tensor:
    try:
        count = len(range(x.size(0)))
    except TypeError:
        count = 2
    return x * count


@torch.compile(backend="eager")
def compiled(x: Tensor) -> Tensor:
    return x * x.shape[2]


READERS = {
    "shape": lambda x: x * x.shape[2],
    "size": lambda x: x * x.size(0),
    "size compared": lambda x: x if x.size(0) > 1 else -x,
    "shape compared": lambda x: x if x.shape == X.shape else -x,
    "shape unpacked": lambda x: x.reshape([-1, *x.shape[1:]]),
    "shape as it is": lambda x: x.reshape(x.shape),
    "shape with a field": lambda x: x * x.shape.numel(),
    "size in a word": lambda x: x * len(f"{x.size(0)}"),
    "another axis": lambda x: x.view(x.size(1), -1),
    "rows and columns": lambda x: x.view(x.size(0), 4, -1),
    "rows of another": lambda x: x[:, :, :2, :2].reshape(x.size(0), -1),
    "no rows": lambda x: x.reshape(-1, x.size(0)),
    "rows by name": lambda x: x.reshape(shape=(x.size(0), -1)),
    "len": lambda x: x * len(x),
    "numel": lambda x: x / x.numel(),
    "torch.numel": lambda x: x / torch.numel(x),
    "nelement": lambda x: x / x.nelement(),
    "stride": lambda x: x * x.stride(1),
    "nbytes": lambda x: x * x.nbytes,
    "contiguous or not": lambda x: x if x.is_contiguous() else -x,
    "unpacked": lambda x: torch.add(*x),
    "same size": lambda x: x if torch.is_same_size(x, X) else -x,
    "storage": lambda x: x * x.untyped_storage().nbytes(),
    "pool to its own size": lambda x: F.adaptive_avg_pool2d(x, (1, None)),
    "resized to a size": lambda x: F.interpolate(x, size=(8, 8)),
    "resized by a factor made of sizes": lambda x: F.interpolate(x, scale_factor=1.6, recompute_scale_factor=True),
    "normalized by the batch": lambda x: F.batch_norm(x, None, None, training=True),
    "a slice behind a choice": lambda x: x[torch.tensor([True, False]), :, :8],
    "a slice that a tensor ends": lambda x: x[:, :, : torch.tensor(3)],
    "written in Python": lambda x: F.lp_pool2d(x, 2.0, 2),
    "caught": swallowed,
    "caught by PyTorch": counted,
}
SILENT = {
    "ops": lambda x: (F.relu(x) + 2 * x - x / 3).mean((2, 3), keepdim=True).flatten(1),
    "rows": lambda x: x.view(x.size(0), -1) + x.reshape(x.shape[0], -1) + x.view(x.size()[0], -1),
    "rows in a tuple": lambda x: torch.reshape(x, (x.size(0), -1)) + x.view([x.shape[0], -1]),
    "reflected": lambda x: 1 - x,
    "rank and type": lambda x: x.to(x.dtype) if x.dim() == 4 and x.ndim == 4 and x.is_floating_point() else -x,
    "pool": lambda x: F.adaptive_avg_pool2d(F.max_pool2d(x, 2), (1, 1)),
    "resized by a factor": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "split": lambda x: torch.cat(x.split(2, 1)[::-1], 1) + torch.cat(x.chunk(2, 1), 1) + x[:, :1],
    "shuffled": lambda x: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2),
    "cropped": lambda x: x[:, :, 1:-1, :] + x[..., :-2, :] + x[:, :, 0:6],
    "cropped to all there is": lambda x: x[:, :4] + x[..., :8] + x[:, 0:, None, :, :9].sum(2),
    "padded": lambda x: F.pad(x, (1, 1, 0, 2)),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_is_seen(name: str) -> None:
    module = Calling(READERS[name])
    with pytest.raises(SizeReadError), sizes_hidden(module):
        module(X)
    assert not module._forward_hooks and not module._forward_pre_hooks


@pytest.mark.parametrize("make", [lambda n: torch.zeros(n, 1, 1, 1), lambda n: X[:1].expand(n, -1, -1, -1), range])
def test_nothing_else_is_made_with_a_size(make) -> None:
    module = Calling(lambda x: x + make(x.size(0)))
    with pytest.raises((TypeError, SizeReadError)), sizes_hidden(module):
        module(X)


def test_what_is_compiled_is_seen_while_it_is_traced() -> None:
    module = nn.Sequential(nn.ReLU(), Calling(compiled))
    with pytest.raises(Exception), sizes_hidden(module):  # noqa: B017  # the size, or that it cannot be traced
        torch.export.export(module, (X,), strict=False)


@pytest.mark.parametrize("name", SILENT)
def test_an_op_is_no_reader(name: str) -> None:
    module = Calling(SILENT[name])
    with sizes_hidden(module):
        found = module(X)
    assert torch.equal(found, SILENT[name](X))


def test_a_size_is_seen_in_a_part_and_behind_a_hook_of_the_users() -> None:
    module = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU()))
    module[1].register_forward_hook(lambda part, args, output: output * output.shape[3])
    with pytest.raises(SizeReadError, match="shape"), sizes_hidden(module):
        module(X)


def test_a_module_that_is_never_called_is_not_let_through() -> None:
    with pytest.raises(SizeReadError), sizes_hidden(nn.ReLU()):
        pass


def test_after_an_error_of_the_networks_own_nothing_is_watched() -> None:
    def fails(x: Tensor) -> Tensor:
        raise ValueError("of its own")

    module = Calling(fails)
    with pytest.raises(ValueError, match="of its own"), sizes_hidden(module):
        module(X)
    assert X.shape == (2, 4, 8, 8)


@pytest.mark.parametrize("name", ["shape", "len"])
def test_a_trace_that_ends_at_a_reader_leaves_no_mode_behind(name: str) -> None:
    """All that the process calls on tensors from then on would run through it, once more for each such trace."""
    module = Calling(READERS[name])
    with pytest.raises(SizeReadError), sizes_hidden(module):
        torch.export.export(module, (X,), strict=False)
    assert _get_current_function_mode_stack() == []


def test_a_network_that_flattens_its_rows_is_traced_at_one_size() -> None:
    """Given x.view(x.size(0), -1) before a Linear → the plain network takes any batch and size, without conditions."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.adaptive_avg_pool2d(self.norm(self.conv(x)), 1)
            return self.head(x.view(x.size(0), -1))

    net = Classifier().eval()
    plain, report = reparameterize(net, X[:1])
    assert report.guards == () and report.end_to_end.shapes[0][0] == 3
    for shape in ((1, 4, 8, 8), (5, 4, 11, 7)):
        x = torch.randn(shape)
        torch.testing.assert_close(plain(x), net(x))


def test_a_size_that_makes_a_loop_is_traced_with_its_number() -> None:
    """Given a loop over the images beside x.view(x.size(0), -1) → the network of the example's batch."""

    class Loops(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x.view(x.size(0), -1).sum()
            for i in range(x.size(0)):
                total = total + x[i].mean() * (i + 1)
            return total.reshape(1, 1)

    net = Loops().eval()
    plain, _ = reparameterize(net, X)
    torch.testing.assert_close(plain(X), net(X))
