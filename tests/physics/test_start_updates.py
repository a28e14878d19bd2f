import torch

from ptychi_neural.physics.start_updates import StartUpdates


def test_updates_are_computed_once_and_anew_where_start_or_sources_change():
    updates, computed = StartUpdates(), []

    def compute(start):
        computed.append(start)
        return 2 * start

    start, other, source = torch.ones(1, 2, 2), torch.zeros(1, 2, 2), torch.ones(3)

    def get(split, start):
        return updates.get(split, start, [source], compute)

    assert get(None, start) is get(None, start)
    assert torch.equal(get(0, other), 2 * other)
    assert len(computed) == 2
    assert torch.equal(get(0, start), 2 * start)
    source += 1
    get(None, start)
    get(0, start)
    assert len(computed) == 5


def test_nothing_is_kept_while_gradients_of_a_source_are_asked_for():
    source = torch.ones(3, requires_grad=True)
    assert StartUpdates().get(None, torch.ones(1, 2, 2), [source], lambda start: start) is None
