"""Alignment and metrics against oracles written out in numpy, and figures that are files."""

import h5py
import numpy as np
import pytest
from scipy import ndimage

from ptychi_neural.evaluation import (
    ONE_SEVENTH,
    align,
    amplitude_correlation,
    complex_error,
    contrast,
    error_by_band,
    fourier_ring_correlation,
    half_bit_threshold,
    loss_figure,
    phase_correlation,
    psnr_amplitude_phase,
    reconstruction_figure,
    resolution_px,
    scanned_area,
    ssim_amplitude_phase,
)
from ptychi_neural.scans import position_origin

SHAPE = (96, 80)


def smooth_noise(seed, sigma=2.0, shape=SHAPE):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma)
    return noise / noise.std()


@pytest.fixture
def reference():
    return (1 + 0.1 * smooth_noise(0)) * np.exp(0.4j * smooth_noise(1))


@pytest.fixture
def mask():
    inside = np.zeros(SHAPE, bool)
    inside[14:-14, 14:-14] = True
    return inside


def moved(image, shift, slope, factor=0.5 - 1.2j):
    """``image`` at r - shift, times a ramp and a factor, by the Fourier shift theorem."""
    y, x = np.indices(image.shape)
    fy, fx = (np.fft.fftfreq(n) for n in image.shape)
    phase = -2j * np.pi * (fy[:, None] * shift[0] + fx[None, :] * shift[1])
    translated = np.fft.ifft2(np.fft.fft2(image) * np.exp(phase))
    return factor * translated * np.exp(1j * (slope[0] * y + slope[1] * x))


class TestAlign:
    def test_the_scale_is_that_of_least_squares(self, reference, mask):
        noisy = (2 - 1j) * reference + 0.1 * smooth_noise(3)
        s = align(noisy, reference, mask=mask).scale
        best = np.sum(np.abs(s * noisy - reference)[mask] ** 2)
        for nudge in (1e-3, -1e-3, 1e-3j, -1e-3j):
            assert np.sum(np.abs((s + nudge) * noisy - reference)[mask] ** 2) > best

    def test_nothing_is_removed_that_was_not_asked_for(self, reference):
        other = 3 * reference
        np.testing.assert_array_equal(align(other, reference, scale=False).aligned, other)

    @pytest.mark.parametrize("shift", [(0.0, 0.0), (3.3, -1.7), (-6.25, 4.5)])
    @pytest.mark.parametrize("slope", [(0.0, 0.0), (0.021, -0.013), (0.4, 0.31)])
    def test_ramp_and_shift_are_found_together(self, reference, mask, shift, slope):
        result = align(moved(reference, shift, slope), reference, ramp=True, shift=True, mask=mask)
        np.testing.assert_allclose(result.shift, -np.array(shift), atol=0.02)
        np.testing.assert_allclose(result.ramp, slope, atol=1e-3)
        assert complex_error(result.aligned, reference, mask) < 0.01

    def test_a_ramp_alone_is_removed_to_rounding(self, reference):
        result = align(moved(reference, (0, 0), (0.1, -0.2)), reference, ramp=True)
        np.testing.assert_allclose(result.aligned, reference, atol=1e-6)

    def test_a_shift_alone_is_found_for_a_pure_phase_object(self, mask):
        reference = np.exp(0.3j * smooth_noise(4))
        result = align(moved(reference, (1.5, 2.25), (0, 0)), reference, shift=True, mask=mask)
        np.testing.assert_allclose(result.shift, (-1.5, -2.25), atol=0.02)

    def test_noise_does_not_mislead_it(self, reference, mask):
        rng = np.random.default_rng(5)
        noise = 0.15 * (rng.standard_normal(SHAPE) + 1j * rng.standard_normal(SHAPE))
        noisy = moved(reference, (2.4, -3.1), (0.05, 0.02)) + noise
        result = align(noisy, reference, ramp=True, shift=True, mask=mask)
        np.testing.assert_allclose(result.shift, (-2.4, 3.1), atol=0.1)
        np.testing.assert_allclose(result.ramp, (0.05, 0.02), atol=5e-3)

    def test_what_lies_outside_the_mask_does_not_matter(self, reference, mask):
        spoilt = np.where(mask, reference, 7j)
        assert align(spoilt, reference, mask=mask).scale == pytest.approx(1)

    def test_a_flat_object_is_left_where_it_is(self, reference):
        result = align(np.ones(SHAPE, complex), reference, shift=True)
        assert result.shift == (0.0, 0.0)

    @pytest.mark.parametrize(
        ("other", "mask", "message"),
        [
            (np.ones((1, *SHAPE), complex), None, "one slice"),
            (np.ones((5, 5), complex), None, "same"),
            (np.ones(SHAPE, complex), np.zeros(SHAPE, bool), "a True pixel"),
            (np.full(SHAPE, np.nan, complex), None, "reconstruction holds NaN"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(self, reference, other, mask, message):
        with pytest.raises(ValueError, match=message):
            align(other, reference, mask=mask)


class TestScannedArea:
    def test_a_raster_covers_its_bounding_box(self):
        grid = np.stack(np.meshgrid([-8.2, 0, 8.2], [-3.1, 0, 5.4]), -1).reshape(-1, 2)
        inside = scanned_area(grid, (1, 40, 31))
        y0, x0 = position_origin((40, 31))
        y, x = np.indices((40, 31))
        expected = (np.abs(y - y0) <= 8.2) & (x - x0 >= -3.1) & (x - x0 <= 5.4)
        np.testing.assert_array_equal(inside, expected)

    def test_a_round_scan_covers_no_corners(self):
        angle = np.linspace(0, 2 * np.pi, 400)
        circle = 10 * np.stack([np.sin(angle), np.cos(angle)], -1)
        inside = scanned_area(circle, (40, 40))
        y, x = np.indices((40, 40)) - 19.5
        np.testing.assert_array_equal(inside, np.hypot(y, x) < 9.999)

    def test_the_margin_widens_and_narrows(self):
        square = np.array([[-5.0, -5.0], [-5.0, 5.0], [5.0, 5.0], [5.0, -5.0]])
        assert scanned_area(square, (30, 30), margin_px=2).sum() == 14**2
        assert scanned_area(square, (30, 30), margin_px=-2).sum() == 6**2

    def test_a_scan_without_an_area_is_refused(self):
        line = np.array([[0.0, -5.0], [0.0, 0.0], [0.0, 5.0]])
        with pytest.raises(ValueError, match="not in one line"):
            scanned_area(line, (30, 30))
        with pytest.raises(ValueError, match="widen the margin"):
            scanned_area(np.array([[0, 0], [1, 0], [0, 1.0]]), (30, 30), margin_px=-9)


METRICS = [
    complex_error,
    phase_correlation,
    amplitude_correlation,
    lambda *args: ssim_amplitude_phase(*args).amplitude,
    lambda *args: ssim_amplitude_phase(*args).phase,
    lambda *args: psnr_amplitude_phase(*args).amplitude,
    lambda *args: psnr_amplitude_phase(*args).phase,
    lambda *args: contrast(*args).amplitude,
    lambda *args: contrast(*args).phase,
    lambda *args: error_by_band(*args[:2], [0, 0.1, 0.8], *args[2:])[1],
]


class TestMetrics:
    @pytest.mark.parametrize("metric", METRICS)
    def test_no_metric_sees_the_global_scale_or_what_is_outside(self, metric, reference, mask):
        rec = reference + 0.05 * smooth_noise(6, 1.0) + 0.03j * smooth_noise(7, 1.0)
        spoilt = np.where(mask, rec, 1.5)
        assert metric(2.5j * rec, reference, mask) == pytest.approx(
            metric(rec, reference, mask), rel=1e-6
        )
        if metric is not phase_correlation:  # whose shift brings pixels in from outside
            assert metric(spoilt, reference, mask) == pytest.approx(
                metric(rec, reference, mask), rel=1e-6
            )

    def test_the_complex_error_is_the_sine_between_the_two(self, reference, mask):
        rec = reference + 0.2 * smooth_noise(6)
        a, b = rec[mask], reference[mask]
        cosine = np.abs(np.vdot(a, b)) / np.linalg.norm(a) / np.linalg.norm(b)
        assert complex_error(rec, reference, mask) == pytest.approx(np.sqrt(1 - cosine**2))

    def test_correlations_are_those_of_numpy(self, mask):
        phase, amplitude = 0.2 * smooth_noise(1), 1 + 0.1 * smooth_noise(2)
        other_phase, other = phase + 0.1 * smooth_noise(3), amplitude + 0.1 * smooth_noise(4)
        a, b = amplitude * np.exp(1j * phase), other * np.exp(1j * other_phase)
        assert amplitude_correlation(b, a, mask) == pytest.approx(
            np.corrcoef(amplitude[mask], other[mask])[0, 1]
        )
        assert phase_correlation(b, a, mask, ramp=False, shift=False) == pytest.approx(
            np.corrcoef(phase[mask], other_phase[mask])[0, 1]
        )

    def test_phases_of_several_turns_are_unwrapped(self, mask):
        phase = 3 * smooth_noise(8, 8.0)
        assert np.ptp(phase[mask]) > 2 * np.pi
        rec = np.exp(1j * (0.8 * phase + 0.02 * smooth_noise(9)))
        expected = np.corrcoef(phase[mask], (0.8 * phase + 0.02 * smooth_noise(9))[mask])[0, 1]
        correlation = phase_correlation(rec, np.exp(1j * phase), mask, ramp=False, shift=False)
        assert correlation == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("turns", [0.3, 3.0])
    def test_a_collapsed_object_has_no_correlation_and_no_contrast(self, turns, mask):
        reference = (1 + 0.1 * smooth_noise(0)) * np.exp(1j * turns * smooth_noise(8, 8.0))
        flat = np.full(SHAPE, 0.7 + 0.1j)
        assert phase_correlation(flat, reference, mask) == pytest.approx(0, abs=1e-6)
        assert amplitude_correlation(flat, reference, mask) == pytest.approx(0, abs=1e-6)
        assert contrast(flat, reference, mask) == pytest.approx((0, 0), abs=1e-6)

    def test_weak_phases_correlate_as_strong_ones_do(self, mask):
        phase, noise = 1e-4 * smooth_noise(1), 1e-5 * smooth_noise(2)
        expected = np.corrcoef(phase[mask], (phase + noise)[mask])[0, 1]
        measured = phase_correlation(
            np.exp(1j * (phase + noise)), np.exp(1j * phase), mask, ramp=False, shift=False
        )
        assert measured == pytest.approx(expected)

    def test_a_reference_of_zeros_is_refused(self, reference):
        with pytest.raises(ValueError, match="reference is 0"):
            complex_error(reference, np.zeros(SHAPE, complex))

    def test_contrast_is_a_ratio_of_standard_deviations(self, mask):
        phase = 0.2 * smooth_noise(1)
        rec, ref = (1 + 0.1 * phase) * np.exp(0.5j * phase), (1 + 0.4 * phase) * np.exp(1j * phase)
        relative = [
            np.std(array[mask]) / np.mean(array[mask]) for array in (np.abs(rec), np.abs(ref))
        ]
        amplitude, of_phase = contrast(rec, ref, mask)
        assert amplitude == pytest.approx(relative[0] / relative[1])
        assert of_phase == pytest.approx(0.5)

    def test_psnr_is_ten_log_of_squared_range_over_mean_square(self, reference, mask):
        rec = reference + 0.02 * smooth_noise(2) + 0.03j * smooth_noise(3)
        s = np.vdot(rec[mask], reference[mask]) / np.vdot(rec[mask], rec[mask])
        psnr = psnr_amplitude_phase(rec, reference, mask)
        for measured, part in zip(psnr, (np.abs, np.angle)):
            image, truth = part(s * rec[mask]), part(reference[mask])
            noise = np.mean((image - truth) ** 2)
            assert measured == pytest.approx(10 * np.log10(np.ptp(truth) ** 2 / noise))

    def test_ssim_is_that_of_its_formula_in_a_window(self, reference):
        rec = reference + 0.02 * smooth_noise(2) + 0.03j * smooth_noise(3)
        window = np.zeros(SHAPE, bool)
        window[20:27, 30:37] = True
        s = np.vdot(rec[window], reference[window]) / np.vdot(rec[window], rec[window])
        for measured, part in zip(ssim_amplitude_phase(rec, reference, window), (np.abs, np.angle)):
            a, b = part(s * rec[window]), part(reference[window])
            b_range = np.ptp(b)
            middle = part(reference[window]).max() / 2 + part(reference[window]).min() / 2
            if part is np.angle:  # the phase is counted from the middle of its range
                a, b = a - middle, b - middle
            c1, c2 = (0.01 * b_range) ** 2, (0.03 * b_range) ** 2
            covariance = np.cov(a, b)
            expected = (2 * a.mean() * b.mean() + c1) * (2 * covariance[0, 1] + c2)
            expected /= (a.mean() ** 2 + b.mean() ** 2 + c1) * (np.trace(covariance) + c2)
            assert measured == pytest.approx(expected, rel=1e-6)

    def test_bands_add_up_to_the_complex_error(self, reference, mask):
        rec = reference + 0.1 * smooth_noise(6) + 0.1j * smooth_noise(7, 0.5)
        bands = error_by_band(rec, reference, [0, 0.02, 0.1, 0.3, 0.8], mask)
        assert np.linalg.norm(bands) == pytest.approx(complex_error(rec, reference, mask))

    def test_an_error_of_one_frequency_is_found_in_its_band(self, reference):
        y = np.arange(SHAPE[0])[:, None]
        rec = reference + 0.05j * np.cos(2 * np.pi * y * 12 / 96)
        bands = error_by_band(rec, reference, [0, 0.1, 0.15, 0.8])
        assert bands[1] > 20 * max(bands[0], bands[2])

    def test_a_flat_reference_cannot_be_judged(self, reference):
        for metric in (ssim_amplitude_phase, psnr_amplitude_phase, contrast):
            with pytest.raises(ValueError, match="flat"):
                metric(reference, np.ones(SHAPE, complex))


class TestRingCorrelation:
    def test_it_is_the_normalised_product_of_spectra_ring_by_ring(self):
        a, b = (
            smooth_noise(s, 0.5, (32, 32)) + 1j * smooth_noise(s + 9, 1, (32, 32)) for s in (0, 1)
        )
        b = 0.5 * a + b
        frc = fourier_ring_correlation(a, b)
        s = np.vdot(a, b) / np.vdot(a, a)
        window = np.outer(np.hanning(34)[1:-1], np.hanning(34)[1:-1])
        fa, fb = np.fft.fft2(window * s * a), np.fft.fft2(window * b)
        for k in (0, 3, 10, 16):
            total = pa = pb = 0.0
            for i in range(32):
                for j in range(32):
                    fy, fx = (n if n < 16 else n - 32 for n in (i, j))
                    if round(np.hypot(fy, fx)) == k:
                        total += (fa[i, j] * np.conj(fb[i, j])).real
                        pa += abs(fa[i, j]) ** 2
                        pb += abs(fb[i, j]) ** 2
            assert frc.correlation[k] == pytest.approx(total / np.sqrt(pa * pb))

    def test_the_resolution_is_where_noise_takes_over(self):
        rng = np.random.default_rng(0)
        shape = (256, 256)
        radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
        truth = np.fft.ifft2(np.fft.fft2(rng.standard_normal(shape)) * (radius < 0.2))
        halves = [truth + 1e-2 * rng.standard_normal(shape) for _ in range(2)]
        frc = fourier_ring_correlation(*halves)
        assert frc.frequencies[-1] == pytest.approx(0.5, abs=0.01)
        assert resolution_px(frc, ONE_SEVENTH) == pytest.approx(5, rel=0.05)
        assert resolution_px(frc, half_bit_threshold(frc.n_pixels)) == pytest.approx(5, rel=0.05)

    def test_equal_images_are_resolved_to_the_pixel(self, reference, mask):
        assert resolution_px(fourier_ring_correlation(3j * reference, reference, mask)) == 2

    def test_unrelated_images_are_not_resolved(self):
        a, b = (np.random.default_rng(s).standard_normal((64, 64)) + 0j for s in (0, 1))
        frc = fourier_ring_correlation(a, b)
        assert np.abs(frc.correlation[5:]).max() < 0.4
        assert resolution_px(frc, half_bit_threshold(frc.n_pixels)) > 10
        opposite = frc._replace(correlation=-np.ones_like(frc.correlation))
        assert resolution_px(opposite) == np.inf


class TestFigures:
    def image_size(self, path):
        from matplotlib.image import imread

        pixels = imread(path)
        assert np.ptp(pixels[..., :3]) == 1
        return pixels.shape[:2]

    @pytest.mark.parametrize(
        ("n_slices", "losses"), [(1, [(0, 3.0), (1, 2.0), (2, 1.5)]), (2, None)]
    )
    def test_a_reconstruction_is_drawn(self, tmp_path, reference, mask, losses, n_slices):
        path = tmp_path / "new" / "object.png"
        probe = np.stack([np.outer(np.hanning(16), np.hanning(16)) + 0j] * 4)[None]
        reconstruction_figure(
            path,
            np.stack([reference] * n_slices),
            probe,
            losses,
            title="lines",
            pixel_size_m=1e-8,
            mask=mask,
        )
        height, width = self.image_size(path)
        assert (height / n_slices, width) == (690, 1950)
        assert list(path.parent.iterdir()) == [path]

    def test_losses_of_pty_chi_are_drawn(self, tmp_path):
        pandas = pytest.importorskip("pandas")
        losses = {"epoch": [0, 1, 2], "loss": [3.0, 2.0, 1.0], "reg_loss": [0.0] * 3}
        table = pandas.DataFrame(losses)
        loss_figure(tmp_path / "loss.png", table)
        assert self.image_size(tmp_path / "loss.png") == (1050, 900)  # a panel for each curve

    def test_figures_do_not_replace_each_other_unless_asked(self, tmp_path):
        path, table = tmp_path / "loss.png", {"epoch": [0, 1], "loss": [1.0, np.nan]}
        loss_figure(path, table)
        with pytest.raises(FileExistsError, match="overwrite=True"):
            loss_figure(path, table)
        loss_figure(path, table, overwrite=True)

    def test_wrong_arguments_are_explained(self, tmp_path, reference):
        with pytest.raises(ValueError, match="column 'epoch'"):
            loss_figure(tmp_path / "loss.png", {"loss": [1.0]})
        with pytest.raises(ValueError, match=r"\(n_slices, H, W\)"):
            reconstruction_figure(tmp_path / "a.png", reference, np.ones((1, 1, 8, 8), complex))


def test_a_measured_object_is_recognised_through_ramp_and_shift(data_folder):
    with h5py.File(data_folder / "siemens_star" / "reference.h5") as file:
        reference = file["object"][0]
    mask = np.zeros(reference.shape, bool)
    mask[90:-90, 90:-90] = True
    displaced = moved(reference, (3.3, -1.7), (0.05, -0.02))
    assert phase_correlation(displaced, reference, mask) > 0.99
    assert phase_correlation(displaced, reference, mask, shift=False) < 0.95
