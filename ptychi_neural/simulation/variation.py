"""A probe that changes from frame to frame, in pty-chi's OPR model.

The first incoherent mode of frame k is

    P_k = P + sum_m w_km E_m,

with E_m orthogonal to each other and to P, of mean intensity 1 per pixel as in pty-chi, and real
w_km (Odstrcil et al., Optics Express 24, 8360 (2016)).
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from ptychi.utils import add_additional_opr_probe_modes_to_probe, generate_initial_opr_mode_weights
from pydantic import Field

from ptychi_neural.simulation.precision import double_precision_on_cpu
from ptychi_neural.simulation.probes import Probe, coordinates
from ptychi_neural.simulation.sections import Section

Motion = Literal["shift_y", "shift_x", "tilt_y", "tilt_x", "defocus"]
"""What moves. A tilt moves the beam on the detector. A shift moves it on the specimen, which the
patterns alone cannot tell from an error of the position."""


class ProbeVariation(Section):
    """Motions of the probe to first order, each an OPR mode with weights of its own."""

    motions: tuple[Motion, ...] = Field(default=("tilt_x", "defocus"), min_length=1)
    """What moves; each motion is one OPR mode beside the main one."""

    rms: float = Field(default=0.2, gt=0)
    """Root mean square, over frames, of the amplitude of all OPR modes but the main one, relative
    to that of the main one."""

    def build(
        self, probe: Probe, n_frames: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
        """Make the OPR modes of a probe and draw their weights.

        Parameters
        ----------
        probe : ndarray
            (n_modes, h, w) complex probe.
        n_frames : int
            Number of frames.
        rng : Generator
            Random numbers.

        Returns
        -------
        ndarray
            (n_opr_modes, n_modes, h, w) probe; only the first incoherent mode varies.
        ndarray
            (n_frames, n_opr_modes) weights; those of the main mode are 1.

        Raises
        ------
        ValueError
            If the motions do not change the probe in different ways.
        """
        varied = np.zeros((1 + len(self.motions), *probe.shape), dtype=complex)
        varied[0] = probe
        for number, motion in enumerate(self.motions, start=1):
            mode = _derivative(probe[0], motion)
            before = np.linalg.norm(mode)
            for earlier in varied[:number, 0]:
                mode = mode - earlier * np.vdot(earlier, mode) / np.vdot(earlier, earlier)
            norm = np.linalg.norm(mode)
            if norm < 1e-6 * before or norm == 0:
                raise ValueError(
                    f"motions: {motion} does not change this probe in a way of its own beside "
                    f"{', '.join(self.motions[: number - 1]) or 'its scale'}: leave it out."
                )
            varied[number, 0] = mode * np.sqrt(mode.size) / norm
        weights = np.ones((n_frames, len(varied)))
        size = self.rms * np.linalg.norm(probe[0]) / np.sqrt(probe[0].size * len(self.motions))
        weights[:, 1:] = rng.normal(0, size, (n_frames, len(self.motions)))
        return varied, weights

    def guess(
        self, probe: Probe, n_frames: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
        """Make pty-chi's guess that a reconstruction starts from: noise, with weights near 0.

        Parameters and returns are those of ``build``.
        """
        with double_precision_on_cpu(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            guess = add_additional_opr_probe_modes_to_probe(
                torch.from_numpy(probe[None]), len(self.motions)
            )
            weights = generate_initial_opr_mode_weights(n_frames, len(guess))
        return guess.numpy(), weights.numpy()


def _derivative(wave: NDArray[np.complex128], motion: Motion) -> NDArray[np.complex128]:
    """The direction in which an (h, w) wavefield changes."""
    if motion.startswith("tilt"):
        y, x = coordinates(wave.shape)
        return 1j * (y if motion == "tilt_y" else x) * wave
    qy, qx = np.meshgrid(*(np.fft.fftfreq(side) for side in wave.shape), indexing="ij")
    factors = {"shift_y": 1j * qy, "shift_x": 1j * qx, "defocus": 1j * (qy**2 + qx**2)}
    return np.fft.ifft2(np.fft.fft2(wave) * factors[motion])
