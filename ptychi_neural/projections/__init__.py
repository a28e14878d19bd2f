"""The initial reconstruction: projections without a network, from which a generator starts."""
