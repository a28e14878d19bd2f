"""What tests of detectors take from a source of frames."""

import warnings

import numpy as np


def taken(source, timeout_s, placed=range(12)):
    """Numbers and counts of the placed frames of a source, by number, and what is told."""
    numbers, counts = [], []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _, blocks in source.looks(0.05, timeout_s, placed, False):
            for block in blocks:
                numbers += block.numbers.tolist()
                counts += list(block.patterns)
    order = np.argsort(numbers, kind="stable")
    text = " ".join(str(warning.message) for warning in told)
    return [numbers[i] for i in order], np.array([counts[i] for i in order]), text
