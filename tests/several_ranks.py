"""Ranks of one reconstruction for tests: forked processes, which have no imports to wait for."""

import multiprocessing
import os
import traceback

import torch


def errors_on_ranks(n, function, *arguments):
    """The exception that a function raises on each of ``n`` ranks, in order."""
    ends = _ends_on_ranks(n, function, arguments)
    assert all(isinstance(end, Exception) for end in ends), ends
    return ends


def on_ranks(n, function, *arguments):
    """What a function returns on each of ``n`` ranks, in order.

    Each rank finds what ``torchrun`` would have set, and computes in one thread.
    """
    ends = _ends_on_ranks(n, function, arguments)
    errors = [end for end in ends if isinstance(end, Exception)]
    if errors:
        raise ExceptionGroup("on ranks", errors)
    return ends


def _ends_on_ranks(n, function, arguments, timeout_s=300):
    context = multiprocessing.get_context("fork")
    # The ranks meet at a store that is there before them, as under torchrun: a port that is only
    # looked for can be taken by another test before the first rank listens.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ends = [context.Pipe(duplex=False) for _ in range(n)]
    all_have_told = context.Event()
    processes = [
        context.Process(
            target=_run,
            args=(rank, n, store.port, ends[rank][1], all_have_told, function, arguments),
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
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    try:
        sender.send(function(*arguments))
    except Exception as error:
        error.add_note(traceback.format_exc())
        sender.send(error)
    all_have_told.wait()  # No rank leaves while another still joins the group.
