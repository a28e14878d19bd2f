"""The unrolled generator's network on the rows of several ranks: values and gradients of one."""

import numpy as np
import pytest
import torch

from ptychi_neural.generators.correcting_networks.network import CorrectingNetwork
from ptychi_neural.options import GeneratorOptions
from ptychi_neural.physics.ranks import n_ranks, rank, sum_gradients
from several_ranks import on_ranks


def made_of(height, network, joins):
    """What a network makes of an object, and the gradients of a loss of which each rank has a
    part."""
    if joins:
        torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    options = GeneratorOptions(width=4)
    options.unrolled.network, options.unrolled.n_layers = network, 2
    net = CorrectingNetwork(options, 1, (16, 16)).double()
    torch.nn.init.normal_(net.project.weight)
    features = torch.randn(4, height, 30, dtype=torch.float64, requires_grad=True)
    made = net.of_object(features)
    share = (rank() + 1) / sum(range(1, n_ranks() + 1))
    (share * made.square().sum()).backward()
    sum_gradients([*net.parameters(), features])
    return [made.detach().numpy(), *(p.grad.numpy() for p in (*net.parameters(), features))]


@pytest.mark.parametrize(
    ("n", "height", "network"),
    [(2, 41, "dilated"), (3, 50, "dilated"), (3, 20, "dilated"), (2, 41, "unet")],
)
def test_ranks_make_together_what_one_makes(n, height, network):
    alone = made_of(height, network, joins=False)
    for found in on_ranks(n, made_of, height, network, True):
        for of_ranks, expected in zip(found, alone, strict=True):
            np.testing.assert_allclose(of_ranks, expected, rtol=1e-9, atol=1e-9)


def test_each_rank_works_on_its_rows_alone(monkeypatch):
    rows = []
    options = GeneratorOptions(width=4)
    options.unrolled.n_layers = 2
    net = CorrectingNetwork(options, 1, (16, 16))
    assert net.reach == 7
    module = "ptychi_neural.generators.correcting_networks.network"
    monkeypatch.setattr(f"{module}.n_ranks", lambda: 2)
    monkeypatch.setattr(f"{module}.summed", lambda made: made)
    net.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[-2]))
    for number in range(2):
        monkeypatch.setattr(f"{module}.rank", lambda number=number: number)
        assert net.of_object(torch.zeros(4, 100, 30)).shape == (2, 100, 30)
    assert rows == [57, 58]
