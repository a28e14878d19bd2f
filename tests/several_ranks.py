"""Ranks of one reconstruction for tests: forked processes, which have no imports to wait for."""

import multiprocessing
import os
import socket
import traceback

import torch


def on_ranks(n, function, *arguments, timeout_s=300):
    """What a function returns on each of ``n`` ranks, in order; an exception comes as itself.

    Each rank finds what ``torchrun`` would have set, and computes in one thread.
    """
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ends = [context.Pipe(duplex=False) for _ in range(n)]
    all_have_told = context.Event()
    processes = [
        context.Process(
            target=_run, args=(rank, n, port, ends[rank][1], all_have_told, function, arguments)
        )
        for rank in range(n)
    ]
    for process in processes:
        process.start()
    try:
        results = []
        for rank, (receiver, sender) in enumerate(ends):
            sender.close()
            assert receiver.poll(timeout_s), f"rank {rank} does not end"
            results.append(receiver.recv())
        return results
    finally:
        all_have_told.set()
        for process in processes:
            process.kill() if process.is_alive() and len(results) < n else process.join()


def _run(rank, n, port, sender, all_have_told, function, arguments):
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(n),
        "LOCAL_WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        sender.send(function(*arguments))
    except Exception as error:
        error.add_note(traceback.format_exc())
        sender.send(error)
    all_have_told.wait()  # The first rank ends last, as the others join the group through it.
