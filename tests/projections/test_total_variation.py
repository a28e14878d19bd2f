"""Total variation in torch against that of scikit-image."""

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_tv_chambolle

from ptychi_neural.projections.total_variation import denoised


def by_skimage(object_, weight):
    images = np.stack([object_.real, object_.imag], -1)
    smooth = [denoise_tv_chambolle(image, weight, channel_axis=-1) for image in images]
    return np.stack(smooth) @ np.array([1, 1j])


def noisy(shape, rng):
    """Steps in real and imaginary part, the latter with a hundredth of the former's noise."""
    object_ = np.ones(shape, complex)
    object_[..., shape[-2] // 3 :, shape[-1] // 4 :] += 0.3 - 0.5j
    return object_ + rng.normal(0, 0.1, shape) + 1e-3j * rng.normal(size=shape)


@pytest.mark.parametrize("weight", [1e-3, 0.05, 0.3, 5.0])
@pytest.mark.parametrize("shape", [(1, 24, 31), (3, 17, 12), (1, 1, 9)])
def test_it_is_that_of_scikit_image(weight, shape):
    object_ = noisy(shape, np.random.default_rng(2))
    found = denoised(torch.as_tensor(object_), weight).numpy()
    np.testing.assert_allclose(found, by_skimage(object_, weight), rtol=1e-10, atol=1e-12)
    assert np.abs(np.diff(found, axis=-1)).sum() < 0.99 * np.abs(np.diff(object_, axis=-1)).sum()


def test_single_precision_errs_by_its_rounding():
    object_ = noisy((1, 64, 64), np.random.default_rng(3))
    found = denoised(torch.as_tensor(object_).to(torch.complex64), 0.1)
    assert found.dtype == torch.complex64
    np.testing.assert_allclose(found.numpy(), by_skimage(object_, 0.1), atol=2e-5, rtol=1e-4)


def test_an_even_object_and_a_weight_of_zero_change_nothing():
    object_ = torch.full((1, 8, 8), 0.7 + 0.2j)
    assert torch.equal(denoised(object_, 0.4), object_)
    assert denoised(object_, 0.0) is object_
