"""Coarse phase from the first moments of the patterns.

The mean spatial frequency of an exit wave, which is its pattern's first moment, is the mean
gradient of its phase, weighted with its intensity (Waddell & Chapman, Optik 54, 83 (1979); Mueller
et al., Nat. Commun. 5, 5653 (2014)). So where the object's phase still lacks delta, measured and
predicted moments differ by the mean of grad delta: what is coarse, and what intensities hardly tell
of, the moments tell at once. Their differences, stitched like patches, are integrated to delta
(Lazic et al., Ultramicroscopy 160, 265 (2016)).
"""

import math

import torch
from torch import Tensor

from ptychi_neural.physics.exit_waves import Correction
from ptychi_neural.physics.ranks import summed
from ptychi_neural.physics.scan_physics import ScanPhysics
from ptychi_neural.physics.stitching import in_double


class FirstMoments:
    """Phase that an object lacks, by the moments of measured and predicted patterns.

    Parameters
    ----------
    scan : ScanPhysics
        Operators, probe and positions; patterns are those of the far field.
    intensity : Tensor, optional
        (h, w) what ``intensity`` of others holds.
    """

    def __init__(self, scan: ScanPhysics, intensity: Tensor | None = None) -> None:
        self.scan, self.model = scan, scan.model
        self.options = scan.options.start
        if intensity is None:
            intensity = scan.model.probe.get_all_mode_intensity()
        self.intensity = intensity
        """(h, w) intensity of the probe with which these began."""
        ky, kx = _frequencies(tuple(intensity.shape))
        self._coordinates = torch.stack([torch.ones_like(ky), ky, kx], -1).flatten(0, 1)
        shape = scan.start.shape[-2:]
        # Gradients are averaged with the probe's intensity twice: when measured and when stitched.
        response = torch.fft.fft2(intensity / intensity.sum(), s=shape).abs().square()
        ky, kx = _frequencies(tuple(shape))
        square = ky.square() + kx.square()
        square[0, 0] = 1.0
        integration = self.options.moment_step / (square * (response + self.options.moment_floor))
        self._moments = intensity.new_zeros(len(scan.model.everything), 3)
        """(n, 3) counts of each frame, and what its moments along y and x lack, times counts."""
        self._integration = torch.stack([-1j * ky * integration, -1j * kx * integration])

    def accumulate(self, correction: Correction, measured: Tensor, frames: Tensor) -> None:
        """Find what the moments of some patterns lack.

        Pixels that may not be seen count as predicted.

        Parameters
        ----------
        correction : Correction
            Predicted counts, and which pixels may be seen.
        measured : Tensor
            (n, h, w) counts.
        frames : Tensor
            (n,) indices of the frames.
        """
        predicted = correction.predicted
        unpredicted = torch.where(correction.seen, measured - predicted, 0.0)
        of_predicted = predicted.flatten(1) @ self._coordinates
        of_measured = of_predicted + unpredicted.flatten(1) @ self._coordinates
        mean = of_predicted[:, 1:] / of_predicted[:, :1]
        of_measured[:, 1:] -= of_measured[:, :1] * mean
        self._moments[frames] = of_measured

    def lacking(self, frames: Tensor) -> Tensor:
        """Sum up what the moments lack, weighted with the probe's intensity.

        Parameters
        ----------
        frames : Tensor
            (n,) indices of all frames that were accumulated, here and on other ranks.

        Returns
        -------
        Tensor
            (1, H, W) complex, along y + i along x.
        """
        moments, total = summed(self._moments), torch.zeros_like(in_double(self.scan.start))
        lacking = torch.zeros_like(torch.view_as_complex(moments[:, 1:].contiguous()))
        for batch in frames.split(self.scan.options.batch_size):
            of_batch = moments[batch]
            # Relative to the mean counts, not to the frame's own: an empty frame tells nothing.
            relative = of_batch[:, 1:] / of_batch[:, :1].mean()
            lacking[batch] = torch.complex(*relative.unbind(1))
        for batch in self.scan.of(frames).batches:
            weighted = in_double(lacking[batch][:, None, None, None] * self.intensity)
            total += self.model.stitching.place(weighted, self.model.positions(batch))
        return summed(total).to(self.scan.start.dtype)

    def phase(self, lacking: Tensor, illumination: Tensor) -> Tensor:
        """Give the phase by which the object is to be turned.

        Parameters
        ----------
        lacking : Tensor
            (1, H, W) sum over the patterns.
        illumination : Tensor
            (H, W) sum of the probe's intensity under them.

        Returns
        -------
        Tensor
            (H, W) in radians.
        """
        gradient = lacking[0] / (illumination + self.options.rim * illumination.max())
        spectra = torch.fft.fft2(torch.view_as_real(gradient).movedim(-1, 0))
        return torch.fft.ifft2((self._integration * spectra).sum(0)).real


def _frequencies(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(h, w) spatial frequencies along y and x in radians per pixel, as an FFT orders them."""
    ky, kx = (2 * math.pi * torch.fft.fftfreq(n) for n in shape)
    return torch.meshgrid(ky, kx, indexing="ij")  # type: ignore[return-value]
