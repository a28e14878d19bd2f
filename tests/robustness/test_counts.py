"""Counts of any numbers: finite counts, a mask and words come of them, or a refusal."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hostile_scans import FEW_AND_MANY, for_all, result_or_words
from ptychi_neural.scans import StreamedCounts, repair

DTYPES = st.one_of(
    arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?"),
    arrays.floating_dtypes(endianness="?"),
    arrays.boolean_dtypes(),
    st.sampled_from([np.dtype("c8"), np.dtype("S3"), np.dtype(object)]),
)
SMALL = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3)
LARGER = arrays.array_shapes(min_dims=3, max_dims=3, max_side=16)
PATTERNS = st.one_of(
    st.tuples(DTYPES, SMALL).flatmap(
        lambda kind: (
            st.just(np.empty(kind[1], object)) if kind[0].kind == "O" else arrays.arrays(*kind)
        )
    ),
    st.builds(
        lambda seed, dtype, shape: drawn(seed, dtype, shape),
        st.integers(0, 2**31),
        DTYPES,
        LARGER,
    ),
)


def drawn(seed, dtype, shape):
    """Poisson counts with extreme numbers in some places."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.choice([0.1, 5, 1000]), shape).astype(np.float64)
    places = rng.random(shape) < rng.choice([0, 0.01, 0.5])
    counts[places] = rng.choice([np.nan, np.inf, -1, 65535, 2**32 - 1, 1e300, 1e-300, 0])
    with np.errstate(all="ignore"):
        return counts.astype(dtype)


@FEW_AND_MANY
def test_any_array_is_repaired_or_refused(n):
    def check(example):
        patterns, block = example
        stream = StreamedCounts()
        if block is None:
            calls = [(repair, patterns)]
        else:
            firsts = range(0, len(patterns), block)
            numbers = np.arange(len(patterns))
            calls = [(stream.add, patterns[i : i + block], numbers[i : i + block]) for i in firsts]
        for call in calls:
            with np.errstate(all="ignore"):
                found, words = result_or_words(*call)
            assert found is not None or words
            if found is not None:
                assert_repaired(found, call[1])

    for_all(n, st.tuples(PATTERNS, st.sampled_from([None, 1, 2, 5])), check)


def assert_repaired(found, patterns):
    assert np.isfinite(found.patterns).all()
    assert (found.patterns >= 0).all()
    valid = found.valid_pixel_mask
    assert valid is None or valid.size < 100 or 2 * valid.sum() >= valid.size
    assert len(found.kept) == len(patterns)
    assert len(found.patterns) == found.kept.sum()
