"""A run file of the neural engine that takes a second, with a checkpoint after every epoch."""

RUN = """
[simulation]
frame_shape = [16, 16]
scan = { kind = "raster", n_y = 6, n_x = 5, step_px = 2.5 }

[output]
checkpoint_minutes = 0

[reconstructor_options]
num_epochs = 6
batch_size = 12
default_device = "cpu"
allow_nondeterministic_algorithms = false

[reconstructor_options.start]
n_iterations = 4

[reconstructor_options.generator]
width = 4

[probe_position_options]
optimizable = true
"""
