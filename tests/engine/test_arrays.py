"""Arrays that a script hands to a task: refused by name, repaired as files are, or filled."""

import dataclasses

import numpy as np
import pytest
import torch
from ptychi.api import LSQMLOptions

import ptychi_neural.api as napi
from ptychi_neural.engine import arrays
from ptychi_neural.engine.modes import with_filled_modes, with_modes
from ptychi_neural.engine.tasks import build_task
from ptychi_neural.runs.run_scan import reconstructed
from ptychi_neural.scans import repair
from small_tasks import default_options, make_task, neural_options, object_of


@pytest.mark.parametrize(
    ("name", "spoil", "named"),
    [
        ("object_data", np.abs, "object_data is float"),
        ("probe_data", np.abs, "probe_data is float"),
        ("diffraction_data", lambda a: a.astype(complex), "diffraction_data: patterns are complex"),
        ("probe_position_x_px", lambda a: a * np.nan, "probe_position_x_px: has NaN"),
        ("opr_mode_weights_data", lambda a: a * np.inf, "opr_mode_weights_data: has NaN or Inf"),
        ("valid_pixel_mask", lambda a: ~a, "no pixel is valid"),
    ],
)
def test_what_pty_chi_would_fail_on_is_refused_by_name(simulated, name, spoil, named):
    scan = simulated.scan
    data = {
        "object_data": scan.object,
        "probe_data": scan.probe,
        "diffraction_data": scan.patterns,
        "probe_position_x_px": scan.positions_px[:, 1],
        "opr_mode_weights_data": np.ones((64, 1)),
        "valid_pixel_mask": np.ones((16, 16), bool),
    }
    with pytest.raises(ValueError, match=named):
        make_task(neural_options(), scan, **{name: spoil(data[name])})


def test_big_endian_reversed_and_tensor_patterns_are_what_plain_ones_are(simulated):
    plain = make_task(neural_options(), simulated.scan).dataset.patterns
    counts = simulated.scan.patterns
    for patterns in (counts.astype(">u2"), counts[:, ::-1].copy()[:, ::-1], torch.tensor(counts)):
        task = make_task(neural_options(), simulated.scan, diffraction_data=patterns)
        assert torch.equal(task.dataset.patterns, plain)


def test_a_module_without_counts_and_a_bright_frame_are_taken_out_with_one_warning(
    simulated, caplog
):
    scan = simulated.scan
    patterns = scan.patterns.astype(np.int64)
    middle = (slice(None), slice(5, 11), slice(7, 10))
    patterns[middle] = 0
    spoilt = patterns.copy()
    spoilt[20] *= 1000
    weights = np.linspace(0.9, 1.1, 64)[:, None]
    with caplog.at_level("WARNING", logger="ptychi_neural"):
        task = make_task(
            neural_options(), scan, diffraction_data=spoilt, opr_mode_weights_data=weights
        )
    told = [r.message for r in caplog.records if "diffraction_data" in r.message]
    assert len(told) == 1
    assert "blocks without counts" in told[0]
    assert "far too bright: 20" in told[0]
    others = np.arange(64) != 20
    y, x = scan.positions_px[others].T
    mask = np.ones((16, 16), bool)
    mask[middle[1:]] = False
    without = make_task(
        neural_options(),
        scan,
        diffraction_data=patterns[others],
        probe_position_x_px=x,
        probe_position_y_px=y,
        opr_mode_weights_data=weights[others],
        valid_pixel_mask=mask,
    )
    for name in ("probe_positions", "opr_mode_weights"):
        assert torch.equal(task.get_data(name), without.get_data(name))
    for one in (task, without):
        one.run(1)
    assert np.array_equal(object_of(task), object_of(without))


def test_patterns_with_dc_in_the_corner_are_repaired_where_neighbours_are_neighbours(simulated):
    patterns = simulated.scan.patterns.astype(float)
    patterns[3, 8, 8] = np.nan
    masks = []
    for in_corner in (False, True):
        options = neural_options()
        options.data_options.fft_shift = not in_corner
        given = np.fft.ifftshift(patterns, axes=(1, 2)) if in_corner else patterns
        task = make_task(options, simulated.scan, diffraction_data=given)
        masks.append(task.dataset.valid_pixel_mask)
        assert not masks[-1][0, 0]
    assert torch.equal(*masks)


def test_what_has_been_repaired_is_not_repaired_again_unless_it_was_changed(simulated, monkeypatch):
    calls = []
    monkeypatch.setattr(arrays, "repair", lambda *args: calls.append(1) or repair(*args))
    scan = dataclasses.replace(simulated.scan, patterns=repair(simulated.scan.patterns).patterns)
    build_task(neural_options(), scan)
    assert calls == []
    scan.patterns = scan.patterns.copy()
    scan.patterns[4, 8, 8] = 65535
    task = build_task(neural_options(), scan)
    assert calls == [1]
    assert int((~task.dataset.valid_pixel_mask).sum()) == 1


def test_slices_and_the_near_field_need_a_wavelength_unless_one_was_set(simulated):
    two = dataclasses.replace(
        simulated.scan,
        object=np.ones((2, *simulated.scan.object.shape[1:]), complex),
        slice_spacings_m=np.array([1e-6]),
        wavelength_m=None,
    )
    near = dataclasses.replace(
        simulated.scan, free_space_propagation_distance_m=1e-3, wavelength_m=None
    )
    for scan in (two, near):
        for options in (neural_options(), LSQMLOptions()):
            with pytest.raises(ValueError, match="needs a wavelength"):
                build_task(options, scan)
        build_task(neural_options(), scan, keep=("data_options.wavelength_m",))
        build_task(neural_options(), dataclasses.replace(scan, wavelength_m=1e-10))
        options = neural_options()
        options.data_options.wavelength_m = 2e-10
        build_task(options, scan)


@pytest.mark.parametrize("n_modes", [1, 2, 51])
def test_further_modes_leave_most_of_the_energy_to_the_first(n_modes, simulated):
    probe = with_modes(simulated.scan.probe, n_modes)
    energies = np.square(np.abs(probe[0])).sum(axis=(1, 2))
    assert probe.shape[1] == n_modes
    assert energies.sum() == pytest.approx(np.square(np.abs(simulated.scan.probe)).sum(), rel=1e-4)
    assert energies[0] >= 0.499 * energies.sum()
    assert (energies > 0).all()


def test_dark_modes_of_a_refined_probe_are_filled_and_told(simulated, caplog):
    probe = np.zeros((1, 3, 16, 16), complex)
    probe[0, 1] = simulated.scan.probe[0, 0]
    filled, dark = with_filled_modes(probe)
    assert dark == [0, 2]
    assert np.array_equal(filled[0, 1], probe[0, 1])
    energies = np.square(np.abs(filled[0])).sum(axis=(1, 2)) / np.square(np.abs(probe)).sum()
    assert (energies[[0, 2]] > 0.01).all()
    assert (energies[[0, 2]] < 0.03).all()
    for refined in (True, False):
        options = neural_options()
        options.probe_options.optimizable = refined
        caplog.clear()
        with caplog.at_level("WARNING", logger="ptychi_neural"):
            task = make_task(options, simulated.scan, probe_data=probe)
        assert any("modes 0, 2 are zero" in r.message for r in caplog.records) == refined
        assert bool(task.get_data("probe")[0, 0].any()) == refined


# --- several tasks, and OPR modes ----------------------------------------------------------------


def test_tasks_of_different_precision_and_seed_run_in_turns_as_each_alone(simulated):
    def task_of(seed, dtype):
        options = neural_options()
        options.reconstructor_options.random_seed = seed
        options.reconstructor_options.default_dtype = dtype
        options.reconstructor_options.batching_mode = "random"
        return make_task(options, simulated.scan)

    kinds = [(0, "float32"), (1, "float64")]
    alone = []
    for kind in kinds:
        task = task_of(*kind)
        task.run(2)
        alone.append(task)
    in_turns = [task_of(*kind) for kind in kinds]
    for _ in range(2):
        for task in in_turns:
            task.run(1)
            torch.rand(3), np.random.random()  # noqa: NPY002
    for one, other in zip(alone, in_turns):
        assert one.get_data("object").dtype == other.get_data("object").dtype
        assert np.array_equal(object_of(one), object_of(other))
    assert object_of(alone[1]).dtype == np.complex128


@pytest.mark.parametrize("refined", [False, True])
def test_a_product_with_opr_weights_predicts_what_the_task_does(simulated, refined):
    rng = np.random.default_rng(5)
    scan = simulated.scan
    weights = np.column_stack([np.ones(64), rng.normal(0, 0.3, 64)])
    weights[7] = (1.0, 3.0)  # pty-chi takes it for an outlier.
    eigenmode = 0.4j * np.roll(scan.probe, 2, axis=-1)
    scan = dataclasses.replace(
        scan, probe=np.concatenate([scan.probe, eigenmode]), opr_mode_weights=weights
    )
    options = neural_options()
    options.probe_options.optimizable = refined
    task = build_task(options, scan)
    task.run(3)
    product = reconstructed(scan, task, "")
    eigenmodes = np.sqrt(np.square(np.abs(product.probe[1:])).mean(axis=(-2, -1)))
    np.testing.assert_allclose(eigenmodes, 1, rtol=1e-4)
    again = build_task(napi.NeuralPtychographyOptions(), product)
    torch.testing.assert_close(_predicted(again), _predicted(task), rtol=1e-4, atol=1e-3)
    if not refined:  # The ratio of the modes, frame by frame, is what was given.
        found = product.probe[0] + product.opr_mode_weights[7, 1] * product.probe[1]
        asked = scan.probe[0] + 3.0 * scan.probe[1]
        factor = np.vdot(asked, found) / np.vdot(asked, asked)
        np.testing.assert_allclose(found, factor * asked, atol=1e-3 * np.abs(found).max())


@torch.no_grad()
def _predicted(task):
    model = task.reconstructor.model
    return model(model.everything)


@pytest.mark.parametrize(
    "name",
    ["object_data", "probe_data", "probe_position_x_px", "opr_mode_weights_data"],
)
@pytest.mark.parametrize(
    "other",
    [
        lambda array: array.astype(array.dtype.newbyteorder(">")),
        lambda array: array[::-1].copy()[::-1],
        lambda array: np.asfortranarray(array),
        lambda array: torch.tensor(array),
    ],
    ids=["big-endian", "reversed", "Fortran", "tensor"],
)
def test_other_arrays_are_converted_as_patterns_are(simulated, name, other):
    scan = simulated.scan
    data = {
        "object_data": scan.object,
        "probe_data": scan.probe,
        "probe_position_x_px": scan.positions_px[:, 1],
        "opr_mode_weights_data": np.ones((64, 1)),
    }
    plain, task = (
        make_task(neural_options(), scan, **{name: value})
        for value in (data[name], other(data[name]))
    )
    for parameter in ("object", "probe", "probe_positions"):
        assert torch.equal(getattr(task, parameter).data, getattr(plain, parameter).data)


@pytest.mark.parametrize("dtype", [complex, str, object])
def test_positions_that_are_no_real_numbers_are_refused_by_name(simulated, dtype):
    x = simulated.scan.positions_px[:, 1].astype(dtype)
    with pytest.raises(ValueError, match=r"probe_position_x_px: has the type .* real numbers"):
        make_task(neural_options(), simulated.scan, probe_position_x_px=x)


def test_masked_and_half_precision_counts_are_taken(simulated):
    counts = np.minimum(simulated.scan.patterns, 200)
    gap = np.zeros(counts.shape, bool)
    gap[:, 4] = True
    masked = make_task(
        neural_options(), simulated.scan, diffraction_data=np.ma.masked_array(counts, gap)
    )
    holed = make_task(
        neural_options(), simulated.scan, diffraction_data=np.where(gap, np.nan, counts)
    )
    assert torch.equal(masked.dataset.valid_pixel_mask, holed.dataset.valid_pixel_mask)
    assert not np.fft.fftshift(masked.dataset.valid_pixel_mask.numpy())[4].any()
    half = torch.tensor(counts.astype(np.float32)).bfloat16()
    task = make_task(neural_options(), simulated.scan, diffraction_data=half)
    assert task.dataset.patterns.sum() == pytest.approx(counts.sum(), rel=1e-2)


@pytest.mark.parametrize("unit", [1e-40, 1e36, 1e300])
def test_numbers_that_single_precision_does_not_hold_are_refused(simulated, unit):
    patterns = simulated.scan.patterns * unit
    with pytest.raises(ValueError, match="diffraction_data: a count seems to be"):
        make_task(neural_options(), simulated.scan, diffraction_data=patterns)


def test_weights_of_zero_are_told_to_leave_no_light(simulated):
    probe = np.concatenate([simulated.scan.probe, 0.1 * simulated.scan.probe[..., ::-1]])
    weights = np.zeros((64, 2))
    task = make_task(
        neural_options(), simulated.scan, probe_data=probe, opr_mode_weights_data=weights
    )
    with pytest.raises(ValueError, match=r"predict 0: check .*opr_mode_weights_data"):
        task.run()


@pytest.mark.parametrize("step_size", [np.inf, -np.inf])
def test_positions_that_are_lost_end_a_run_with_its_last_finite_state(simulated, step_size):
    options = default_options(4)
    options.reconstructor_options.start.n_iterations = 10
    options.probe_position_options.optimizable = True
    task = make_task(options, simulated.scan)
    for group in task.reconstructor.parameter_group.probe_positions.optimizer.param_groups:
        group["lr"] = step_size
    with pytest.raises(FloatingPointError, match=r"probe_position_options\.step_size"):
        task.run()
    for name in ("object", "probe", "probe_positions"):
        assert task.get_data_to_cpu(name).isfinite().all()
