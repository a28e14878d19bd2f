"""What goes on from a file as if it had never ended."""

from typing import Any, ClassVar


class Resumable:
    """Something whose course is told by some of its attributes: tensors, numbers, and sequences of
    these."""

    KEPT: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes."""

    def state_dict(self) -> dict[str, Any]:
        """What a file keeps."""
        return {name: getattr(self, name) for name in self.KEPT}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        for name in self.KEPT:
            setattr(self, name, state[name])
