"""An accelerator that is emulated on the CPU, and fails as a real one does.

Tensors of the device are wrappers around tensors of the CPU: values are real, and so are branches
that depend on them. An operation on tensors of the device and of the host together fails, unless an
accelerator allows it: numbers without dimensions, indices, and copies.
"""

import contextlib
import functools

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
"""The name under which the device goes: torch asks for no driver of this one."""

COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
INDEXED = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._unsafe_index.Tensor,
}


class OnDevice(torch.Tensor):
    """A tensor that lies on the device."""

    @staticmethod
    def __new__(cls, data):
        return torch.Tensor._make_wrapper_subclass(
            *(cls, data.shape),
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=DEVICE,
            requires_grad=data.requires_grad,
        )

    def __init__(self, data):
        self.data_on_host = data

    def numpy(self, *, force=False):
        if not force:
            raise TypeError("a tensor of the device is no array; copy it to the host first")
        return self.detach().cpu().numpy(force=True)

    def __repr__(self, **_):
        return f"OnDevice({self.data_on_host!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Emulation(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    tensors = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, OnDevice)]
    device = kwargs.get("device")
    goes_there = bool(there) if device is None else torch.device(device) == DEVICE
    _check(func, args, tensors, there)
    kwargs = dict(kwargs)
    if device is not None:
        kwargs["device"] = "cpu"
    inner_args, inner_kwargs = tree_map(
        lambda a: a.data_on_host if isinstance(a, OnDevice) else a, (args, kwargs)
    )
    found = func(*inner_args, **inner_kwargs)
    if func is torch.ops.aten.copy_.default:
        return args[0]
    if not goes_there or not any(isinstance(a, torch.Tensor) for a in tree_flatten(found)[0]):
        return found
    found = tree_map(_wrapped, found)
    return return_and_correct_aliasing(func, args, kwargs, found) if there else found


def _wrapped(value):
    if not isinstance(value, torch.Tensor):
        return value
    return OnDevice(value.resolve_conj().resolve_neg())  # The wrapper knows of neither.


def _check(func, args, tensors, there):
    here = [t for t in tensors if not isinstance(t, OnDevice)]
    if not there or not here or func in COPIES:
        return
    if func in INDEXED and isinstance(args[0], OnDevice):
        here = [t for t in here if not any(t is index for index in args[1])]
    if any(t.dim() > 0 for t in here) or (func in INDEXED and not isinstance(args[0], OnDevice)):
        shapes = [tuple(t.shape) for t in here]
        raise RuntimeError(f"{func} got tensors of the device, and of the host: {shapes}")


def _made_on_host_first(make):
    """``torch.tensor`` without its special case for the name of the device."""

    @functools.wraps(make)
    def made(data, *, device=None, **kwargs):
        device = torch.empty(0).device if device is None else device
        if isinstance(data, torch.Tensor):
            return data.to(device, **kwargs)
        numbers = tree_map(lambda a: a.item() if isinstance(a, OnDevice) else a, data)
        return make(numbers, device="cpu", **kwargs).to(device)

    return made


def _no_autocast(device_type, enabled=True):
    """Autocast knows no emulated device; where it is switched off, there is nothing to do."""
    assert not enabled
    return contextlib.nullcontext()


@contextlib.contextmanager
def emulated_device(monkeypatch):
    """Let pty-chi's tasks take the emulated device for the one they are to run on."""
    generator = torch.Generator
    for name in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, name, _made_on_host_first(getattr(torch, name)))
    monkeypatch.setattr("ptychi.maps.get_device_by_enum", lambda choice: str(DEVICE))
    monkeypatch.setattr(torch, "Generator", lambda device=None: generator())
    monkeypatch.setattr(torch, "autocast", _no_autocast)
    try:
        with _Emulation():
            yield
    finally:
        torch.set_default_device("cpu")
