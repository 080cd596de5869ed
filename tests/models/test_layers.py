"""Layers in two forms of equal value: native kernels, and elementary operations for vmap and the compiler."""

import pytest
import torch
from torch.func import grad, vmap

from metaexp.contract import largest_difference
from metaexp.models.layers import Convolution, MaxPool
from metaexp.models.norms import prepare, standardise

F64 = torch.float64


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_both_forms_of_convolution_and_pool_are_equal(stride, size):
    """Values and gradients of input and weights, including ties between equal pixels (an image of two flat halves)."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(Convolution(2, 3, 3, stride=stride, padding=1), torch.nn.ReLU(), MaxPool()).to(F64)
    x = torch.randn(4, 2, size, size, dtype=F64)
    x[2:, :, :, : size // 2], x[2:, :, :, size // 2 :] = 1.0, 0.5
    x.requires_grad_()
    results = []
    for native in (True, False):
        prepare(model, native=native)
        y = model(x)
        grads = torch.autograd.grad((y**3).sum(), [x, *model.parameters()], create_graph=True)
        second = torch.autograd.grad(sum((g**2).sum() for g in grads), [x, *model.parameters()])
        results.append([y, *grads, *second])
    assert largest_difference(*results) < 1e-9


@pytest.mark.parametrize("shape", [(3, 2, 9, 8), (3, 2, 3, 8)])
def test_statistics_of_large_and_small_maps_are_those_of_all_pixels(shape):
    """Against the statistics of all values of a channel at once, with the first and second derivative."""
    torch.manual_seed(0)
    x, weights = torch.randn(shape, dtype=F64, requires_grad=True), torch.randn(shape, dtype=F64)

    def plain(x):
        rows = x.movedim(1, 0).flatten(1)
        rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        return rows.unflatten(1, (shape[0], *shape[2:])).movedim(0, 1)

    results = []
    for form in (plain, lambda x: standardise(x, [0, 2, 3], 1e-5)):
        y = form(x)
        (g,) = torch.autograd.grad((y**3 * weights).sum(), x, create_graph=True)
        results.append([y, g, *torch.autograd.grad((g**2).sum(), x)])
    assert largest_difference(*results) < 1e-11


def test_the_gradient_of_a_pool_can_be_mapped_and_differentiated():
    """vmap of gradients to the third order, against the native pool of each task."""
    torch.manual_seed(0)
    x = torch.randn(3, 2, 2, 5, 6, dtype=F64)
    results = []
    for native in (True, False):
        pool = MaxPool()
        pool.native = native

        def third(x, pool=pool):
            inner = grad(lambda x: (pool(x) ** 4).sum())
            return grad(lambda x: grad(lambda x: (inner(x) ** 2).sum())(x).pow(2).sum())(x)

        results.append([torch.stack([third(task) for task in x]) if native else vmap(third)(x)])
    assert largest_difference(*results) < 1e-9 * results[0][0].abs().max()
