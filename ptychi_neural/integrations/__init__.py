"""The engine inside other packages, one file each, which import those packages."""
