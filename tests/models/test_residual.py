"""Bodies for vectors that are good already: no body, and one that begins as the identity."""

import torch

from metaexp.models.identity import Identity
from metaexp.models.residual import Residual


def test_both_begin_with_the_inputs_as_features() -> None:
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    for model in (Identity((7,), 3), Residual((7,), 3, hidden=4)):
        assert torch.equal(model.features(x), x)
        assert torch.equal(model(x), model.head(x))


def test_the_branch_is_two_layers_beside_the_identity() -> None:
    model = Residual((7,), 3, hidden=4).double()
    torch.nn.init.normal_(model.outer.weight)
    x = torch.randn(5, 7, dtype=torch.float64)
    hidden = (x @ model.inner.weight.T + model.inner.bias).clamp(min=0)
    wanted = x + hidden @ model.outer.weight.T + model.outer.bias
    torch.testing.assert_close(model.features(x), wanted)


def test_inputs_of_length_sqrt_d_and_a_head_of_zeros() -> None:
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[3] = 0
    for model in (Identity((7,), 3, length=True, head="zero"), Residual((7,), 3, 4, length=True, head="zero")):
        z = model.double().features(x)
        torch.testing.assert_close(z.square().mean(1), torch.tensor([1.0, 1, 1, 0, 1], dtype=torch.float64))
        torch.testing.assert_close(z[0] / z[0].norm(), x[0] / x[0].norm())
        assert not model(x).any()
