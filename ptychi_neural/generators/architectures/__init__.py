"""Architectures, one file each: options, network, registration."""
