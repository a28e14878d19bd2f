import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ptychi_neural.physics.squared_modulus import squared_modulus


@pytest.mark.parametrize("shape", [(1,), (2, 3, 4)])
def test_its_gradients_are_those_of_the_square_of_the_modulus(shape):
    waves = torch.randn(shape, dtype=torch.complex128, requires_grad=True)
    torch.testing.assert_close(squared_modulus(waves), waves.abs() ** 2)
    weights = torch.randn(shape, dtype=torch.float64)
    (found,) = torch.autograd.grad((weights * squared_modulus(waves)).sum(), waves)
    (expected,) = torch.autograd.grad((weights * waves.abs() ** 2).sum(), waves)
    torch.testing.assert_close(found, expected)
    assert gradcheck(squared_modulus, waves)
    assert gradgradcheck(squared_modulus, waves)


def test_dark_waves_have_no_gradient():
    waves = torch.zeros(3, dtype=torch.complex64, requires_grad=True)
    squared_modulus(waves).sum().backward()
    assert torch.equal(waves.grad, torch.zeros(3, dtype=torch.complex64))
