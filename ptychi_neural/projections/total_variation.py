"""Total-variation denoising of a projected object."""

import torch
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor


def denoised(object_: Tensor, weight: float) -> Tensor:
    """Lower the total variation of a complex image, of real and imaginary part together.

    Parameters
    ----------
    object_ : Tensor
        (n_slices, H, W) complex.
    weight : float
        Weight of the total variation beside half of the squared difference from the image
        (Chambolle, J. Math. Imaging Vis. 20, 89 (2004)), in units of the object. With 0 the image
        is returned as it is.
    """
    if weight == 0:
        return object_
    smooth = []
    for image in torch.view_as_real(object_).numpy(force=True):
        denoised_image = torch.as_tensor(denoise_tv_chambolle(image, weight, channel_axis=-1))
        smooth.append(torch.view_as_complex(denoised_image.to(object_.real)))
    return torch.stack(smooth)
