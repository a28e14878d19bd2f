"""Total-variation denoising of a projected object."""

import torch
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

WEIGHTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Tried where the options leave the weight open, in units of the object."""


def denoised(object_: Tensor, weight: float) -> Tensor:
    """A complex image with less total variation of real and imaginary part together.

    Parameters
    ----------
    object_ : Tensor
        (1, H, W) complex.
    weight : float
        Of the total variation beside half of the squared difference from the image (Chambolle,
        J. Math. Imaging Vis. 20, 89 (2004)), in units of the object. 0: the image itself.
    """
    if weight == 0:
        return object_
    image = torch.view_as_real(object_[0]).numpy(force=True)
    smooth = torch.as_tensor(denoise_tv_chambolle(image, weight, channel_axis=-1))
    return torch.view_as_complex(smooth.to(object_.real))[None]
