"""Weights and statistics of a generator as plain real tensors, for files without pickle."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class SavedTensors(nn.Module):
    """A module that gives and takes its state as real tensors."""

    def tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers as real tensors, ready for safetensors.

        Complex weights are given as real views with a last axis of 2.
        """
        return {
            name: torch.view_as_real(tensor) if tensor.is_complex() else tensor
            for name, tensor in self._state().items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what ``tensors`` returned.

        Raises
        ------
        ValueError
            If names or shapes do not fit: the tensors belong to other options.
        """
        state = self._state()
        try:
            complex_tensors = {
                name: torch.view_as_complex(tensor.contiguous())
                if name in state and state[name].is_complex()
                else tensor
                for name, tensor in tensors.items()
            }
            self.load_state_dict(complex_tensors)
        except RuntimeError as error:
            raise ValueError(
                f"The saved weights do not fit a generator of these options: {error}"
            ) from error

    def _state(self) -> dict[str, Tensor]:
        # neuralop and tltorch may put more than tensors into a state dict.
        return {k: v for k, v in self.state_dict().items() if isinstance(v, Tensor)}
