"""Kills commands at random moments, and checks after each that no result was lost.

    python tests/killed_commands.py FOLDER N_KILLS [SEED]

Each command replaces a result (A by B, then B by A, and so on) and is killed again and again on the
way. After each kill the results folder must hold all of A or all of B, as runs that were never
killed made them, bit by bit. Commands run in forks of this process, which has imported everything.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import h5py
import numpy as np

COMMON = """
[reconstructor_options]
num_epochs = 4
batch_size = 12
default_device = "cpu"
allow_nondeterministic_algorithms = false
start = { n_iterations = 3 }
generator = { width = 4 }
"""
SCAN = 'frame_shape = [16, 16], scan = { kind = "raster", n_y = 6, n_x = 5, step_px = 2.5 }'
RUN = f"simulation = {{ {SCAN} }}\noutput = {{ checkpoint_minutes = 0 }}\n{COMMON}"
TRAINING = f"""
scans = [{{ simulation = {{ seed = 1, {SCAN} }} }}]
validation = {{ simulation = {{ seed = 2, {SCAN} }} }}
{COMMON}"""


def start(arguments, log):
    """Fork a process that runs a command."""
    pid = os.fork()
    if pid:
        return pid
    for number in (1, 2):
        os.dup2(log.fileno(), number)
    sys.argv = ["ptychi-neural", *map(str, arguments)]
    from ptychi_neural.cli import main

    try:
        main()
    except SystemExit as error:
        os._exit(error.code or 0)
    finally:
        os._exit(99)


def run(arguments, log, kill_after_s=None):
    """Run a command, if need be until it is killed; tell whether it was done, and how long."""
    clock = time.perf_counter()
    pid = start(arguments, log)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in ((0,) if kill_after_s is None else (0, -signal.SIGKILL)), (arguments, code)
    return code == 0, time.perf_counter() - clock


def contents(folder):
    """All numbers in a results folder, by file and name."""
    numbers = {}
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path) as file:
            data = {k: v[()] for k, v in file.items() if isinstance(v, h5py.Dataset)}
        numbers |= {(path.name, name): array for name, array in data.items()}
    from safetensors.numpy import load_file

    for path in sorted(folder.glob("generator*.safetensors")):
        numbers |= {(path.name, name): array for name, array in load_file(path).items()}
    return numbers


def same(one, other):
    return set(one) == set(other) and all(np.array_equal(one[k], other[k]) for k in one)


def check(name, commands, folder, n_kills, log, resumable):
    """Let a command replace the results A and B in turns, and kill it ``n_kills`` times.

    Parameters
    ----------
    commands : list
        The arguments that make A, and those that make B.
    resumable : bool
        Whether a killed command is resumed; otherwise it begins anew.
    """
    target, seconds, expected = folder / name, [], []
    for number, arguments in enumerate(commands):
        reference = folder / f"{name}-{'AB'[number]}"
        seconds.append(run([*arguments, "--output", reference], log)[1])
        expected.append(contents(reference))
        assert expected[-1]
    assert not same(*expected)
    run([*commands[0], "--output", target], log)
    n_killed = n_resumed = n_replaced = 0
    wanted, resumes = 1, False
    while n_killed < n_kills:
        how = "--resume" if resumes else "--overwrite"
        moment = random.uniform(0, 1.2 * min(seconds))
        done, _ = run([*commands[wanted], "--output", target, how], log, moment)
        n_killed += not done
        n_resumed += resumes
        found = target
        if not target.exists():  # In the midst of the replacement; the next run mends it.
            (found,) = folder.glob(f".{name}.*.old")
        present = contents(found)
        states = [same(present, reference) for reference in expected]
        assert any(states), f"{name}: neither A nor B after kill {n_killed}"
        if states[wanted]:
            n_replaced += 1
            wanted, resumes = 1 - wanted, False
        else:
            left = [*folder.glob(f".{name}.*.partial")]
            resumes = resumable and any([*path.glob("*.toml")] for path in left)
    print(f"{name}: {n_killed} kills, {n_resumed} resumed, {n_replaced} replaced, nothing lost")


def main(folder, n_kills, seed):
    random.seed(seed)
    os.chdir(folder)
    import torch

    torch.set_num_threads(1)
    import hdf5plugin  # noqa: F401  (everything, before the forks)
    import matplotlib.pyplot  # noqa: F401

    from ptychi_neural import runs  # noqa: F401
    from ptychi_neural.comparison import compare  # noqa: F401
    from ptychi_neural.generators import spectral  # noqa: F401

    (folder / "run.toml").write_text(RUN)
    (folder / "train.toml").write_text(TRAINING)
    seeds = [["--set", f"reconstructor_options.random_seed={seed}"] for seed in (1, 2)]
    with (folder / "log.txt").open("w") as log:
        run(["simulate", "run.toml", "--output", "data"], log)
        make = [["reconstruct", "run.toml", *seed] for seed in seeds]
        check("reconstruct", make, folder, n_kills, log, resumable=True)
        make = [["train", "train.toml", *seed] for seed in seeds]
        check("train", make, folder, n_kills, log, resumable=True)
        data = ["--diffraction", "data/diffraction.h5", "--product", "data/product.h5"]
        generators = [folder / f"train-{name}" / "generator-last.safetensors" for name in "AB"]
        make = [["infer", path, *data] for path in generators]
        check("infer", make, folder, n_kills, log, resumable=False)


if __name__ == "__main__":
    path = Path(sys.argv[1]).resolve()
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    main(path, int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
