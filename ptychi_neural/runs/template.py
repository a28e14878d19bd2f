"""The commented run file that ``ptychi-neural init`` writes, in its parts."""

BEGINNING = """\
# A run file of ptychi-neural. Paths are relative to this file. "none" stands for None.
# The results folder gets a run.toml with every option and its value.

engine = "neural"             # or a classical engine of pty-chi: "lsqml", "rpie", "epie", "pie",
                              # "dm", "raar", "bh", "autodiff"
"""

EXAMPLE = """
[data]
folder = "."                  # --data FOLDER or PTYCHI_NEURAL_DATA go before it
diffraction = "diffraction.h5"  # counts, DC at the image centre: dp (n, h, w)
product = "product.h5"        # ptychodus product: positions, probe, object to start from
# frames = { stop = 500 }     # the first 500 alone; also start, every = 2, window_px = 200
# n_probe_modes = 3           # incoherent probe modes to start from
# n_slices = 2                # of a thick object; their distance: slice_spacing_m = 1e-5
# reference = "reference.h5"  # an object to compare the result with
"""

OPTIONS = """
# Instead of [data]: a simulated scan with ground truth, see configs/simulated.toml.
# [simulation]
# photons_per_frame = 1e5

# [output]
# folder = "results/my_scan"  # relative to the current directory

# From here on, pty-chi's options by their own names.
[reconstructor_options]
# num_epochs = 120            # the neural engine ends earlier where held-out pixels tell
# batch_size = 64             # none: chosen from the scan (neural engine)
# random_seed = 0             # without one, a seed is drawn and recorded
# default_device = "cpu"      # "gpu" falls back to the CPU where there is none

# [reconstructor_options.start]       # of the neural engine, as all below generator is
# n_iterations = 100          # projections before the first epoch; none: from the light

# [reconstructor_options.generator]
# architecture = "unrolled"   # "cascaded", "hybrid_uno", "cnn"

[object_options.total_variation]
enabled = false
weight = 0.0

[probe_options]
optimizable = true
# optimization_plan = {start = 10}

[probe_position_options]
optimizable = false
"""

TEMPLATE = BEGINNING + EXAMPLE + OPTIONS
