"""What the tables of a ``[simulation]`` section have in common."""

import numpy as np
from pydantic import BaseModel, ConfigDict

Seed = int | np.random.Generator
"""The same seed gives the same random numbers."""


class Section(BaseModel):
    """A table of a run file's ``[simulation]`` section, which refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)
