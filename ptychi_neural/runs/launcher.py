"""Whether ``torchrun`` has started this process; nothing heavy is imported to tell."""

import os


def is_launched() -> bool:
    """Whether ``torchrun`` has started this process beside others."""
    return "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def is_silent() -> bool:
    """Whether the first process that ``torchrun`` has started tells and writes, and not this."""
    return is_launched() and os.environ.get("RANK", "0") != "0"
