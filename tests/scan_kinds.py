"""Small scans as files of every kind, and the arguments with which commands find them.

Each function writes a scan into a folder and returns the arguments: file names, keys of ``[data]``.
"""

import math

import h5py
import hdf5plugin
import numpy as np
import tifffile

from ptychi_neural.scans import write_diffraction, write_product, write_scan

WAVELENGTH_M, DISTANCE_M = 1.4e-10, 2.0


def numbers(scan):
    """Keys of the geometry of a scan, for files that tell nothing of it."""
    detector_m = WAVELENGTH_M * DISTANCE_M / (scan.probe.shape[-1] * scan.pixel_size_m)
    return [
        f"--set=data.wavelength_m={WAVELENGTH_M}",
        f"--set=data.detector_distance_m={DISTANCE_M}",
        f"--set=data.detector_pixel_size_m={detector_m}",
    ]


def ptychodus(folder, scan):
    write_diffraction(folder / "diffraction.h5", scan.patterns)
    write_product(folder / "product.h5", scan)
    return ["diffraction.h5"]


def cxi(folder, scan):
    write_scan(folder / "scan.cxi", scan, "cxi")
    with h5py.File(folder / "scan.cxi", "a") as file:
        del file["entry_1/image_1"], file["entry_1/image_2"], file["entry_1/ptychodus"]
    return ["scan.cxi"]


def fold_slice(folder, scan):
    with h5py.File(folder / "a_dp.hdf5", "w") as file:
        file["dp"] = scan.patterns
    with h5py.File(folder / "a_para.hdf5", "w") as file:
        file["ppY"], file["ppX"] = (scan.positions_px * scan.pixel_size_m).T
        file["lambda"], file["dx"] = scan.wavelength_m, scan.pixel_size_m
    return ["a_dp.hdf5"]


def ptychopinn(folder, scan):
    write_scan(folder / "scan.npz", scan, "ptychopinn")
    return ["scan.npz"]


def numpy_stack(folder, scan):
    np.save(folder / "patterns.npy", scan.patterns)
    np.save(folder / "positions.npy", scan.positions_px * scan.pixel_size_m)
    return ["patterns.npy", "positions.npy", *numbers(scan)]


def tiff(folder, scan):
    tifffile.imwrite(folder / "patterns.tif", scan.patterns.astype(np.uint16))
    rows = np.column_stack([scan.positions_px[:, ::-1] * scan.pixel_size_m * 1e6])
    np.savetxt(folder / "at.csv", rows, delimiter=",", header="x_um,y_um", comments="")
    return ["patterns.tif", "at.csv", *numbers(scan)]


def tiff_folder(folder, scan):
    (folder / "frames").mkdir()
    for i, pattern in enumerate(scan.patterns):
        tifffile.imwrite(folder / "frames" / f"f_{i}.tif", pattern.astype(np.uint16))
    np.savetxt(folder / "at.txt", scan.positions_px * scan.pixel_size_m)
    return ["frames", "at.txt", *numbers(scan)]


def emd(folder, scan):
    """py4DSTEM's layout; the raster's positions are those of the file's calibration."""
    n = math.isqrt(len(scan.patterns))
    cube = scan.patterns.reshape(n, n, *scan.patterns.shape[1:])
    with h5py.File(folder / "cube.h5", "w") as file:
        group = file.create_group("datacube_root/datacube")
        group["data"] = cube
        step_nm = 4e9 * scan.pixel_size_m
        per_nm = 1e-9 / (scan.probe.shape[-1] * scan.pixel_size_m)
        for i, (size, step, unit) in enumerate(
            zip(cube.shape, 2 * [step_nm] + 2 * [per_nm], 2 * ["nm"] + 2 * ["nm^-1"])
        ):
            group[f"dim{i}"] = np.arange(size) * step
            group[f"dim{i}"].attrs["units"] = unit
    return ["cube.h5"]


def hdf5_by_names(folder, scan):
    with h5py.File(folder / "own.h5", "w") as file:
        file["a/frames"], file["a/bad"] = scan.patterns, np.zeros(scan.patterns.shape[1:], np.uint8)
        file["b/v"], file["b/h"] = (scan.positions_px * scan.pixel_size_m * 1e6).T
    named = 'patterns = "a/frames", mask = "a/bad", y = "b/v", x = "b/h"'
    return [
        "own.h5",
        f"--set=data.datasets={{ {named} }}",
        "--set=data.position_units=um",
        *numbers(scan),
    ]


def eiger(folder, scan):
    """A master that links compressed frames in other files, with its mask of pixels."""
    with h5py.File(folder / "scan_master.h5", "w") as file:
        place = "entry/instrument/detector/detectorSpecific/pixel_mask"
        file[place] = np.zeros(scan.patterns.shape[1:], np.uint32)
        for i, part in enumerate(np.array_split(scan.patterns, 3), start=1):
            name = f"scan_data_{i:06}.h5"
            with h5py.File(folder / name, "w") as data:
                packed = {"chunks": (1, *part.shape[1:]), **hdf5plugin.Bitshuffle(cname="lz4")}
                data.create_dataset("entry/data/data", data=part, **packed)
            file[f"entry/data/data_{i:06}"] = h5py.ExternalLink(name, "/entry/data/data")
    np.savetxt(folder / "at.txt", scan.positions_px * scan.pixel_size_m)
    return ["scan_master.h5", "at.txt", *numbers(scan)]


def merlin(folder, scan):
    """Merlin's format: a header of 384 bytes and a frame from its last row up, for each frame."""
    with open(folder / "scan.mib", "wb") as file:
        for i, frame in enumerate(scan.patterns):
            h, w = frame.shape
            header = f"MQ1,{i + 1:06},00384,01,{w:04},{h:04},U16,   1x1,01,2020-01-01 00:00:00,"
            header += "0.001,0,0,0,2020-01-01T00:00:00.000000Z,1000000ns,12,"
            file.write(header.encode().ljust(384, b"\0") + frame[::-1].astype(">u2").tobytes())
    np.savetxt(folder / "at.txt", scan.positions_px * scan.pixel_size_m)
    return ["scan.mib", "at.txt", *numbers(scan)]


KINDS = (
    *(ptychodus, cxi, fold_slice, ptychopinn, numpy_stack, tiff, tiff_folder, emd),
    *(hdf5_by_names, eiger, merlin),
)
