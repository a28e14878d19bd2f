"""What a generator costs, counted by hand."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ptychi_neural.comparison.benchmark.cost import FORMULAS, generator_cost
from small_tasks import neural_options


def operations(function, *arguments):
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with counter:
        function(*arguments)
    return counter.get_total_flops()


def test_products_count_a_multiplication_and_an_addition_of_real_numbers():
    a, b = torch.randn(3, 4, 5), torch.randn(3, 5, 6)
    assert operations(torch.bmm, a, b) == 2 * 3 * 4 * 5 * 6
    assert operations(torch.bmm, a + 0j, b + 0j) == 8 * 3 * 4 * 5 * 6
    assert operations(torch.mm, a[0], b[0]) == 2 * 4 * 5 * 6


@pytest.mark.parametrize(
    ("function", "shape", "dtype", "share"),
    [
        (torch.fft.fft2, (7, 8, 16), torch.complex64, 1.0),
        (torch.fft.rfft2, (7, 8, 16), torch.float32, 0.5),
        (torch.fft.irfft2, (7, 8, 9), torch.complex64, 0.5),
    ],
)
def test_transforms_count_5_n_log_n_and_half_of_it_for_real_images(function, shape, dtype, share):
    whole = 7 * 5 * 128 * math.log2(128)
    found = operations(function, torch.ones(shape, dtype=dtype))
    # rfft2 is a real transform of one axis and a complex one of the others.
    assert found == pytest.approx(share * whole, rel=0.2)


def test_the_cost_of_a_generator_counts_every_learned_number(simulated):
    options = neural_options(architecture="fno", width=2, lifter="log", shallow_cnn=False)
    options.reconstructor_options.generator.fno.n_blocks = 1
    cost = generator_cost(options, simulated.scan)
    lifter, output, maximum = 1 * 2 + 2, 2 * 2 + 2, 1
    spectral, local = 2 * (2 * 2 * 8 * 5), 9 * 2 * 2 + 2
    assert cost.n_parameters == lifter + spectral + local + output + maximum
    convolutions = 2 * 16 * 16 * (1 * 2 + 9 * 2 * 2 + 2 * 2)
    transforms = 2 * 2 * 2.5 * 16 * 16 * math.log2(16 * 16)
    products = 8 * (2 * 2 * 8 * 5)
    assert cost.flops == len(simulated.scan.patterns) * (convolutions + transforms + products)


def test_where_no_network_is_used_there_is_no_cost(simulated):
    options = neural_options()
    options.reconstructor_options.num_epochs = 0
    assert generator_cost(options, simulated.scan) is None
