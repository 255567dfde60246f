"""The process that builds the user's model: a stand-alone file, and two beside it, for Python 3.8 and newer.

It is started by `relight.live.capture` with the user's interpreter, reads a request from one private file and appends
one JSON line per target to another. The user's own classes run here; nothing that a checkpoint *names* is imported or
called, except the few data types that `Decoder` builds itself. Nothing is loaded and nothing is trained: calls that
would do so raise `Stop`.
"""

# ruff: noqa: D101, D102, D103 - a program, not an interface: what is obvious from a name has no docstring
# ruff: noqa: B904, B905, C408, SIM105, SIM117, PERF203, PERF401 - written for Python 3.8, and a traceback nobody reads needs no cause
# ruff: noqa: TID251 - imports by name: the user's own target, Lightning's own modules, small standard modules

import sys

if __name__ == "__main__" and sys.path[0].replace("\\", "/") == __file__.replace("\\", "/").rpartition("/")[0]:
    del sys.path[0]  # relight/live itself: its file names must not shadow the user's modules

import ast
import base64
import collections
import contextlib
import copy
import difflib
import gc
import importlib
import importlib.util
import inspect
import io
import json
import linecache
import logging
import os
import random
import re
import shutil
import socket
import struct
import tempfile
import traceback
import types
import warnings

HERE = os.path.realpath(__file__)
CPU_REHEARSAL_BYTES = 256 * 1024 * 1024
# Buffers whose values are told, and the bytes of one: counts, constants, position numbers.
MOST_VALUES = 64
MOST_VALUE_BYTES = 4096

# ------------------------------------------------------------------ whose file is it


def _beside(folder, name):
    """A stand-alone file of relight, by its path: this program has no relight to import it from."""
    path = os.path.join(os.path.dirname(os.path.dirname(HERE)), folder, name + ".py")
    spec = importlib.util.spec_from_file_location("relight_" + name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


structure = _beside(
    "manifest", "structure"
)  # what a training program wrote into a manifest, it wrote with the same code
behaviour = _beside("manifest", "behaviour")
is_user_file = structure.is_user_file


class Names(object):
    """How files are called in the answer: as the user would name them from the working directory."""

    def __init__(self, cwd, given=None):
        self.cwd = os.path.realpath(cwd)
        self.given = {} if given is None else {os.path.realpath(given): given}

    def show(self, path):
        real = os.path.realpath(path)
        if real.startswith(self.cwd.rstrip(os.sep) + os.sep):
            return os.path.relpath(real, self.cwd)
        return self.given.get(real, real)


def class_path(cls):
    module = getattr(cls, "__module__", None)
    name = getattr(cls, "__qualname__", getattr(cls, "__name__", str(cls)))
    return name if module in (None, "builtins") else "{}.{}".format(module, name)


# ------------------------------------------------------------------ stopping scripts


class Stop(BaseException):
    """Raised where a script would load or train. A BaseException: scripts catch Exception around their loading."""


class NetworkOff(OSError):
    """relight builds models without the network."""


class Watch(object):
    """What happened on the way, for one target."""

    def __init__(self):
        self.stopped_at = None
        self.stopped_by = None
        self.stopped_class = None
        self.stopped_on_instance = False
        self.network = False
        self.stand_in_used = None


WATCH = Watch()


def _caller():
    frame = sys._getframe(1)
    while frame is not None:
        if is_user_file(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


def stop(call, cls=None):
    if WATCH.stopped_by is None:
        WATCH.stopped_by, WATCH.stopped_at, WATCH.stopped_class = call, _caller(), cls
    raise Stop(call)


def _stopper(call):
    def stopped(*args, **kwargs):
        stop(call)

    return stopped


class ClassStopper(object):
    """Stands for a classmethod, and knows whether it was called on an object: what it gives back is lost then."""

    def __init__(self, call):
        self.call = call

    def __get__(self, instance, owner):
        def stopped(*args, **kwargs):
            if WATCH.stopped_by is None:
                WATCH.stopped_on_instance = instance is not None
            stop(self.call, owner)

        return stopped


# (owner, name, what was there or None where it was inherited): for loading a file that relight wrote
REAL = []  # type: list


def _replace(owner, name, new):
    REAL.append((owner, name, vars(owner).get(name)))
    setattr(owner, name, new)


@contextlib.contextmanager
def as_they_were():
    """The functions that scripts are stopped at, as the libraries have them."""
    replaced = [(owner, name, vars(owner).get(name)) for owner, name, _ in REAL]
    for owner, name, real in reversed(REAL):
        if real is None:
            delattr(owner, name)
        else:
            setattr(owner, name, real)
    try:
        yield
    finally:
        for owner, name, new in replaced:
            setattr(owner, name, new)


def _patch(owner, names, prefix):
    for name in names:
        if owner is not None and hasattr(owner, name):
            _replace(owner, name, _stopper(prefix + name))


def patch_torch(torch):
    stopper = _stopper("torch.load")
    for owner in (torch, torch.serialization):
        _replace(owner, "load", stopper)
    _patch(getattr(torch, "jit", None), ("load",), "torch.jit.")


def patch_lightning(package):
    for name in ("LightningModule", "LightningDataModule"):
        owner = getattr(package, name, None)
        if hasattr(owner, "load_from_checkpoint"):
            _replace(owner, "load_from_checkpoint", ClassStopper("load_from_checkpoint"))
    _patch(getattr(package, "Trainer", None), ("fit", "validate", "test", "predict"), "Trainer.")


def patch_fabric(package):
    _patch(getattr(package, "Fabric", None), ("load", "load_raw"), "Fabric.")


def patch_cli(module):
    if hasattr(module, "LightningCLI"):
        _replace(module.LightningCLI, "__init__", _stopper("LightningCLI"))


class AfterImport(object):
    """A finder that lets the others find, and changes a module right after it ran. Nothing is imported early."""

    actions = {
        "lightning.pytorch": patch_lightning,
        "pytorch_lightning": patch_lightning,
        "lightning.fabric": patch_fabric,
        "lightning_fabric": patch_fabric,
        "lightning.pytorch.cli": patch_cli,
        "pytorch_lightning.cli": patch_cli,
        "pytorch_lightning.utilities.cli": patch_cli,
    }

    def find_spec(self, name, path=None, target=None):
        action = self.actions.get(name)
        if action is None:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(name, path, target)
            if spec is not None:
                break
        else:
            return None
        run = getattr(spec.loader, "exec_module", None)
        if run is not None:

            def exec_module(module):
                run(module)
                action(module)

            with contextlib.suppress(AttributeError):
                spec.loader.exec_module = exec_module
        return spec


def network_off():
    real = socket.socket.connect

    def connect(self, address):
        if self.family == getattr(socket, "AF_UNIX", None):
            return real(self, address)
        WATCH.network = True
        raise NetworkOff("relight builds models without the network")

    def refused(*args, **kwargs):
        WATCH.network = True
        raise NetworkOff("relight builds models without the network")

    socket.socket.connect = connect
    socket.socket.connect_ex = connect
    socket.create_connection = refused
    socket.getaddrinfo = refused
    os.environ["HF_HUB_OFFLINE"] = "1"  # otherwise it waits and tries again


# ------------------------------------------------------------------ plain data from the file


class Unbuildable(Exception):
    """A value has no stand-in that would tell anything."""


class StandIn(object):
    """Stands for an object whose class the file names: its pickled attributes and nothing else."""

    def __getattr__(self, name):
        if not name.startswith("__"):
            WATCH.stand_in_used = type(self).__name__
        raise AttributeError("{!r} object has no attribute {!r}".format(type(self).__name__, name))

    def __repr__(self):
        return "<{}, stand-in by relight>".format(type(self).__name__)


class CallableStandIn(StandIn):
    """Stands for a class or function that the file refers to. It can be passed on, not called."""

    def __call__(self, *args, **kwargs):
        WATCH.stand_in_used = self.__dict__.get("__qualname__", "a function")
        raise TypeError("relight does not call {!r}, which the checkpoint names".format(WATCH.stand_in_used))


class AttributeDict(dict):
    """Where Lightning's own is not imported."""

    def __getattr__(self, key):
        try:
            return self[key]
        except KeyError:
            raise AttributeError("Missing attribute {!r}".format(key))

    def __setattr__(self, key, value):
        self[key] = value


STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4", "UntypedStorage": "uint8",
}  # fmt: skip

# Called with the decoded arguments, nothing else: constructors of plain data that run no code of anybody.
PLAIN = {
    "builtins.complex": complex, "builtins.bytearray": bytearray, "builtins.slice": slice, "builtins.range": range,
    "builtins.int": int, "builtins.float": float, "builtins.str": str, "builtins.bytes": bytes, "builtins.bool": bool,
    "builtins.list": list, "builtins.tuple": tuple, "builtins.set": set, "builtins.frozenset": frozenset,
}  # fmt: skip

SMALL = ("int", "float", "complex", "bool", "slice", "range")  # do not grow with a number that they are given

MAPPINGS = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict")

STRUCT = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b",
          "u8": "Q", "u4": "I", "u2": "H", "u1": "B", "b1": "?"}  # fmt: skip


class Decoder(object):
    """Rebuilds the values of one checkpoint on one device, with stand-ins for what it does not know."""

    def __init__(self, nodes, torch, device):
        self.nodes = nodes
        self.torch = torch
        self.device = device
        self.memo = {}
        self.path = []
        self.approximated = []  # paths of stand-ins
        self.modules = []  # paths of nn.Modules of the user
        self.inexact = False  # a tensor of an exotic kind was replaced by a plain one

    # -- values

    def value(self, coded):
        if not isinstance(coded, list):
            return coded
        tag = coded[0]
        if tag == "n":
            index = coded[1]
            if index not in self.memo:
                self.memo[index] = self.node(index)
            return self.memo[index]
        if tag == "b":
            return base64.b64decode(coded[1])
        if tag == "z":
            return bytes(coded[1])
        if tag == "f":
            return float(coded[1])
        if tag == "c":
            return complex(float(coded[1]), float(coded[2]))
        return int(coded[1], 16)

    def body(self, coded):
        """The node behind a reference, None for atoms."""
        return self.nodes[coded[1]] if isinstance(coded, list) and coded[0] == "n" else None

    def at(self, step, coded):
        self.path.append(step)
        try:
            return self.value(coded)
        finally:
            self.path.pop()

    def node(self, index):
        node = self.nodes[index]
        tag = node[0]
        if tag == "tuple":
            return tuple(self.at(i, v) for i, v in enumerate(node[1]))
        if tag == "list":
            out = self.memo[index] = []
            out.extend(self.at(i, v) for i, v in enumerate(node[1]))
            return out
        if tag == "dict":
            out = self.memo[index] = {}
            self.fill(out, node[1])
            return out
        if tag == "set":
            return (frozenset if node[2] else set)(self.value(v) for v in node[1])
        if tag == "global":
            return self.named(node[1], node[2])
        if tag == "call":
            return self.call(index, node)
        if tag == "path":
            import pathlib

            return pathlib.Path(node[1])
        return self.stand_in("builtins", "object")()

    def fill(self, mapping, pairs):
        for key, value in pairs:
            k = self.value(key)
            try:
                hash(k)
            except TypeError:
                k = repr(k)
            mapping[k] = self.at(k, value)

    # -- names

    def named(self, module, name):
        """What a bare name stands for: data types and torch's own layers, nothing that could do something."""
        full = module + "." + name
        if full in PLAIN:
            return PLAIN[full]
        if full in ("builtins.dict", "builtins.object"):
            return dict if name == "dict" else object
        if full == "collections.OrderedDict":
            return collections.OrderedDict
        if full in ("argparse.Namespace",):
            import argparse

            return argparse.Namespace
        if name == "AttributeDict":
            return self.attribute_dict()
        if module.startswith("omegaconf.") and name == "DictConfig":
            with contextlib.suppress(ImportError):
                import omegaconf

                return omegaconf.DictConfig
        if module == "torch":
            found = getattr(self.torch, name, None)
            if isinstance(found, (self.torch.dtype, self.torch.memory_format, self.torch.layout)):
                return found
        found = getattr(sys.modules.get(module), name, None)
        home = str(getattr(found, "__module__", None))
        layers = module.startswith(("torch.nn.modules.", "torch.optim.")) and isinstance(found, type)
        functions = module in ("torch.nn.functional", "torch._C._nn") and not name.startswith("_")
        if layers and home.startswith(("torch.nn.", "torch.optim.")):
            return found
        if functions and home in ("torch.nn.functional", "torch._C._nn"):
            return found
        out = type(name, (CallableStandIn,), {"__module__": module})()
        out.__dict__["__qualname__"] = full
        self.approximated.append(tuple(self.path))
        return out

    def attribute_dict(self):
        for module in ("lightning_fabric.utilities.data", "lightning.fabric.utilities.data",
                       "pytorch_lightning.utilities.parsing"):  # fmt: skip
            found = getattr(sys.modules.get(module), "AttributeDict", None)
            if found is not None:
                return found
        return AttributeDict

    # -- constructed values

    def call(self, index, node):
        _, callee, args, kwargs, how, has_state, state, items, pairs = node
        name = self.body(callee)
        if name is None or name[0] != "global":
            return self.finish(self.stand_in("builtins", "object"), has_state, state, items, pairs, index)
        module, qualname = name[1], name[2]
        full = module + "." + qualname
        if full in ("copyreg._reconstructor", "copyreg.__newobj__", "copy_reg._reconstructor") and args:
            inner = self.body(args[0])
            if inner is not None and inner[0] == "global":
                rest = args[2:] if full.endswith("_reconstructor") else args[1:]
                rest = [a for a in rest if a is not None]
                return self.call(index, ["call", args[0], rest, kwargs, "new", has_state, state, items, pairs])
        out = self.known(module, qualname, full, args, items, pairs, state, has_state, index)
        if out is not self:
            return out
        return self.unknown(module, qualname, args, how, has_state, state, items, pairs, index)

    def known(self, module, name, full, args, items, pairs, state, has_state, index):
        """A value of a known kind; this decoder itself where the kind is not known."""
        if full in MAPPINGS:
            return self.mapping(full, args, pairs, has_state, state, index)
        if full == "builtins.getattr":
            return self.enum_member(args)
        if full in PLAIN or full == "_codecs.encode":
            values = [self.value(a) for a in args]
            if full == "_codecs.encode":
                return str(values[0]).encode("latin-1", "replace")
            if any(isinstance(v, (int, range)) for v in values) and name not in SMALL:
                return self  # bytes(10**12): a few bytes of pickle, a terabyte of memory
            out = PLAIN[full](*values)
            if isinstance(out, list):
                out.extend(self.value(i) for i in items)
            return out
        if full == "collections.deque":
            values = [self.value(a) for a in args]
            out = self.memo[index] = collections.deque(*values)
            out.extend(self.value(i) for i in items)
            return out
        if full in ("argparse.Namespace", "types.SimpleNamespace"):
            import argparse

            out = self.memo[index] = argparse.Namespace() if name == "Namespace" else types.SimpleNamespace()
            return self.finish(out, has_state, state, items, pairs, index)
        if name == "AttributeDict" and module.split(".")[0] in ("lightning", "lightning_fabric", "pytorch_lightning"):
            out = self.memo[index] = self.attribute_dict()()
            self.fill(out, pairs)
            return out
        if module in ("pathlib", "pathlib._local"):
            import pathlib

            return pathlib.Path(*[str(self.value(a)) for a in args])
        if module in ("datetime", "decimal", "fractions", "uuid"):
            return self.small_type(module, name, args, has_state, state)
        if module.split(".")[0] == "torch":
            return self.torch_value(module, name, full, args, has_state, state, index)
        if module.split(".")[0] == "numpy":
            return self.numpy_value(name, args, has_state, state)
        if module.split(".")[0] == "omegaconf" and name in ("DictConfig", "ListConfig"):
            return self.omegaconf_value(index)
        return self

    def mapping(self, full, args, pairs, has_state, state, index):
        if full == "collections.defaultdict":
            factory = self.value(args[0]) if args else None
            out = collections.defaultdict(factory if factory in (dict, list, int, float, str, set) else None)
        elif full == "collections.Counter":
            out = collections.Counter()
        else:
            out = {} if full == "builtins.dict" else collections.OrderedDict()
        self.memo[index] = out
        first = self.body(args[0]) if args and full != "collections.defaultdict" else None
        if first is not None and first[0] == "dict":
            self.fill(out, first[1])
        elif first is not None and first[0] == "list":
            rows = [self.body(row) for row in first[1]]
            self.fill(out, [row[1] for row in rows if row is not None and len(row[1]) == 2])
        self.fill(out, pairs)
        if has_state:
            attributes = self.value(state)
            if isinstance(attributes, dict):
                out.__dict__.update(attributes)
        return out

    def small_type(self, module, name, args, has_state, state):
        values = [self.value(a) for a in args]
        kinds = {
            "datetime": ("datetime", "date", "time", "timedelta"),
            "decimal": ("Decimal",),
            "fractions": ("Fraction",),
        }
        if name in kinds.get(module, ()):
            return getattr(importlib.import_module(module), name)(*values)
        if name == "UUID" and has_state:
            import uuid

            return uuid.UUID(int=int(self.value(state).get("int", 0)))
        return self

    # -- torch

    def tensor(self, dtype, shape):
        torch = self.torch
        kind = getattr(torch, dtype, None)
        if kind is None:
            self.inexact, kind = True, torch.float32
        make = torch.empty if self.device == "meta" else torch.zeros
        try:
            return make(tuple(shape), dtype=kind, device=self.device)
        except (RuntimeError, NotImplementedError, TypeError):  # quantized types have no plain tensors
            self.inexact = True
            return make(tuple(shape), dtype=torch.float32, device=self.device)

    def storage_dtype(self, coded):
        node = self.body(coded)
        pid = self.body(node[1]) if node is not None and node[0] == "pid" else None
        if pid is not None and pid[0] == "tuple" and len(pid[1]) > 1:
            kind = self.body(pid[1][1])
            if kind is not None and kind[0] == "global":
                return STORAGES.get(kind[2], "float32")
        if node is not None and node[0] == "call":  # torch.storage.TypedStorage and friends, built by a call
            for part in node[2]:
                found = self.storage_dtype(part)
                if found is not None:
                    return found
        return None

    def torch_value(self, module, name, full, args, has_state, state, index):
        torch = self.torch
        if name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor"):
            dtype = self.storage_dtype(args[0]) or "float32"
            if name == "_rebuild_tensor_v3" and len(args) > 6:
                dtype = str(self.value(args[6])).replace("torch.", "")
            out = self.tensor(dtype, self.value(args[2]))
            if name == "_rebuild_tensor_v2" and len(args) > 4 and args[4] is True and out.is_floating_point():
                out.requires_grad_(True)
            return out
        if name in ("_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter"):
            data = self.value(args[0]) if args else self.tensor("float32", (0,))
            if not isinstance(data, torch.Tensor):
                raise Unbuildable(full)
            grad = bool(self.value(args[1])) if len(args) > 1 else True
            return torch.nn.Parameter(data.detach(), requires_grad=grad and data.is_floating_point())
        if name == "_rebuild_from_type_v2" and len(args) > 2:
            kind = self.body(args[0])
            if kind is not None and kind[0] == "global" and kind[1].startswith("torch"):
                inner = self.body(args[2])
                if inner is not None:
                    return self.torch_value(kind[1], kind[2], "", inner[1], False, None, index)
        if name == "_rebuild_sparse_tensor" and len(args) > 1:
            parts = self.body(args[1])
            if parts is not None and len(parts[1]) > 2:
                values = self.value(parts[1][1])
                try:
                    return torch.sparse_coo_tensor(
                        size=tuple(self.value(parts[1][2])), dtype=values.dtype, device=self.device
                    )
                except (RuntimeError, NotImplementedError, TypeError):
                    self.inexact = True
                    return self.tensor(str(values.dtype)[6:], self.value(parts[1][2]))
        if name == "_rebuild_meta_tensor_no_storage" and len(args) > 1:
            return self.tensor(str(self.value(args[0]))[6:], self.value(args[1]))
        if name in ("_rebuild_device_tensor_from_numpy", "_rebuild_device_tensor_from_cpu_tensor",
                    "_rebuild_xla_tensor"):  # fmt: skip
            data, dtype = self.value(args[0]), str(self.value(args[1])).replace("torch.", "")
            shape = getattr(data, "shape", None)
            if shape is not None:
                return self.tensor(dtype, shape)
        if full == "torch.Size":
            return torch.Size([int(i) for i in self.value(args[0])])
        if full == "torch.device":
            return torch.device(*[self.value(a) for a in args])
        if full in ("torch.serialization._get_layout", "torch._utils._get_layout"):
            return torch.strided
        if module.startswith("torch.nn.modules."):
            return self.torch_module(module, name, has_state, state, index)
        return self

    def torch_module(self, module, name, has_state, state, index):
        """One of torch's own layers as an argument (a loss, an activation): attributes are set, nothing is called."""
        cls = getattr(sys.modules.get(module), name, None)
        if not (isinstance(cls, type) and issubclass(cls, self.torch.nn.Module) and has_state):
            return self
        out = self.memo[index] = cls.__new__(cls)
        attributes = self.value(state)
        if not isinstance(attributes, dict):
            return self
        self.torch.nn.Module.__init__(out)
        out.__dict__.update(attributes)
        return out

    # -- numpy, omegaconf

    def numpy_dtype(self, coded):
        """The type code, as in ``<f8``, of a pickled numpy.dtype; None if it is not a plain one."""
        node = self.body(coded)
        if node is None or node[0] != "call":
            return None
        code = node[2][0] if node[2] else None
        if not isinstance(code, str) or not re.match(r"^[<>=|]?[a-zA-Z]\d+$", code):
            return None
        order = "<"
        body = self.body(node[6]) if node[5] else None
        if body is not None and body[0] == "tuple" and len(body[1]) > 1 and body[1][1] in ("<", ">", "|"):
            order = body[1][1]
        return code if code[0] in "<>=|" else order + code

    def numpy_value(self, name, args, has_state, state):
        try:
            import numpy
        except ImportError:
            numpy = None
        if name == "scalar" and len(args) == 2:
            code, raw = self.numpy_dtype(args[0]), self.value(args[1])
            if code is None or not isinstance(raw, bytes):
                return self
            if numpy is not None:
                return numpy.frombuffer(raw, dtype=numpy.dtype(code))[0]
            letter = STRUCT.get(code[1:])
            return self if letter is None else struct.unpack(code[0].replace("|", "<") + letter, raw)[0]
        if name == "dtype" and numpy is not None and args and isinstance(args[0], str):
            with contextlib.suppress(TypeError):
                return numpy.dtype(args[0])
        if name in ("_reconstruct", "_frombuffer") and numpy is not None:
            body = self.body(state) if has_state else None
            if name == "_reconstruct" and body is not None and body[0] == "tuple" and len(body[1]) == 5:
                _, shape, dtype, fortran, raw = body[1]
                code, raw = self.numpy_dtype(dtype), self.value(raw)
                shape = tuple(self.value(shape))
            elif name == "_frombuffer" and len(args) == 4:
                raw, code = self.value(args[0]), self.numpy_dtype(args[1])
                shape, fortran = tuple(self.value(args[2])), args[3] == "F"
            else:
                return self
            if code is None or not isinstance(raw, bytes) or "O" in code:
                return self
            flat = numpy.frombuffer(raw, dtype=numpy.dtype(code))
            return flat.reshape(shape, order="F" if fortran else "C").copy()
        return self

    def omegaconf_value(self, index):
        try:
            plain = self.omegaconf_plain(["n", index], 0)
        except (Unbuildable, RecursionError):
            return self
        try:
            from omegaconf import OmegaConf
        except ImportError:
            return self
        out = OmegaConf.create(plain)
        if self.omegaconf_flag(["n", index], "struct"):
            OmegaConf.set_struct(out, True)  # it takes no new keys then, also not from the call
        return out

    def omegaconf_flag(self, coded, name):
        """A flag of a pickled configuration, None where it is not set."""
        found = coded
        for step in ("_metadata", "flags", name):
            node = self.body(found)
            if node is not None and node[0] == "call":
                node = self.body(node[6]) if node[5] else None
            if node is None or node[0] != "dict":
                return None
            found = next((v for k, v in node[1] if k == step), None)
        return found if isinstance(found, bool) else None

    def omegaconf_plain(self, coded, depth):
        node = self.body(coded)
        if node is None or node[0] != "call":
            plain = self.value(coded)
            if calls_resolver(plain):
                raise Unbuildable("omegaconf")
            return plain
        name = self.body(node[1])
        state = self.body(node[6])
        if name is None or name[0] != "global" or depth > 100:
            raise Unbuildable("omegaconf")
        if not name[1].startswith("omegaconf."):
            return self.value(coded)
        pairs = state[1] if state is not None and state[0] == "dict" else []
        attributes = {k: v for k, v in pairs if isinstance(k, str)}
        if "_content" in attributes:
            body = self.body(attributes["_content"])
            if body is None:
                return attributes["_content"]  # None, "???" or an interpolation
            if body[0] == "dict":
                return {self.value(k): self.omegaconf_plain(v, depth + 1) for k, v in body[1]}
            return [self.omegaconf_plain(v, depth + 1) for v in body[1]]
        if "_val" in attributes:
            return self.omegaconf_plain(attributes["_val"], depth + 1)
        raise Unbuildable("omegaconf")

    # -- anything else

    def user_class(self, module, qualname):
        """A class of the user's own code that is imported already, by that code; never imported here."""
        found = sys.modules.get(module)
        if found is None or not is_user_file(getattr(found, "__file__", None)):
            return None
        for part in qualname.split("."):
            found = getattr(found, "__dict__", {}).get(part)
        return found if isinstance(found, type) else None

    def enum_member(self, args):
        # A lookup among members that exist, not a call: it runs nothing.
        kind = self.body(args[0]) if args else None
        if kind is not None and kind[0] == "global" and len(args) == 2 and isinstance(args[1], str):
            members = self.members(kind[1], kind[2])
            if args[1] in members:
                return members[args[1]]
        return self

    def members(self, module, qualname):
        import enum

        cls = self.user_class(module, qualname)
        return dict(cls.__members__) if isinstance(cls, enum.EnumMeta) else {}

    def stand_in(self, module, qualname, base=None):
        self.approximated.append(tuple(self.path))
        bases = (StandIn,) if base is None else (StandIn, base)
        return type(qualname.rpartition(".")[2], bases, {"__module__": module})

    def unknown(self, module, qualname, args, how, has_state, state, items, pairs, index):
        if len(args) == 1 and not has_state:
            value = self.value(args[0])
            for member in self.members(module, qualname).values():
                if type(member.value) is type(value) and member.value == value:
                    return member
        base, values = None, []
        if pairs:
            base = dict
        elif items:
            base = list
        elif how == "new" and args and not has_state:
            base, values = tuple, [tuple(self.value(a) for a in args)]  # a namedtuple, most likely
        out = self.memo[index] = self.stand_in(module, qualname, base)(*values)
        if len(args) == 1 and not has_state and base is None and not isinstance(args[0], list):
            out.__dict__["value"] = args[0]  # an enum, most likely
        return self.finish(out, has_state, state, items, pairs, index)

    def finish(self, out, has_state, state, items, pairs, index):
        if isinstance(out, type):
            out = self.memo[index] = out()
        if isinstance(out, list):
            out.extend(self.at(i, v) for i, v in enumerate(items))
        if isinstance(out, dict):
            self.fill(out, pairs)
        if has_state:
            body = self.body(state)
            parts = [state]
            if body is not None and body[0] == "tuple" and len(body[1]) == 2:
                parts = body[1]
            for part in parts:
                node = self.body(part)
                if node is None or node[0] not in ("dict", "call"):
                    continue
                attributes = {}
                if node[0] == "dict":
                    self.fill(attributes, node[1])
                else:
                    found = self.value(part)
                    attributes = dict(found) if isinstance(found, dict) else {}
                attributes = {k: v for k, v in attributes.items() if isinstance(k, str)}
                if isinstance(out, StandIn) and "_parameters" in attributes and "_modules" in attributes:
                    self.modules.append((tuple(self.path), class_path(type(out))))
                out.__dict__.update(attributes)
        return out


def calls_resolver(text):
    """Whether a value of a configuration calls a function that the user registered, with arguments from the file."""
    if not isinstance(text, str) or "${" not in text:
        return False
    return any(not name.startswith("oc.") for name in re.findall(r"\$\{\s*([^{}:]*):", text))


# ------------------------------------------------------------------ failures


def failure(kind, **facts):
    return dict({"kind": kind}, **facts)


def user_frame(exc, names):
    """File, line and text of the innermost frame of the user's code that an exception passed."""
    if isinstance(exc, SyntaxError) and is_user_file(exc.filename):
        text = (exc.text or "").strip()
        return {"file": names.show(exc.filename), "line": exc.lineno, "source": text or None}
    found = None
    for frame, line in traceback.walk_tb(exc.__traceback__):
        if is_user_file(frame.f_code.co_filename):
            found = frame.f_code.co_filename, line
    if found is None:
        return {"file": None, "line": None, "source": None}
    text = linecache.getline(found[0], found[1]).strip()
    return {"file": names.show(found[0]), "line": found[1], "source": text or None}


def user_traceback(exc, names):
    frames = []
    for frame, line in traceback.walk_tb(exc.__traceback__):
        path = frame.f_code.co_filename
        if is_user_file(path):
            text = linecache.getline(path, line).strip()
            frames.append(
                '  File "{}", line {}, in {}\n    {}\n'.format(names.show(path), line, frame.f_code.co_name, text)
            )
    return "".join(frames[-20:])


def message_of(exc, limit=20000):
    try:
        return str(exc)[:limit]
    except Exception:
        return ""


def failed(exc, stage, names, kind=None):
    """An exception as facts."""
    name = None
    if kind is None:
        if isinstance(exc, ModuleNotFoundError) and stage == "import":
            kind, name = "module-not-found", exc.name
        elif isinstance(exc, NameError) and not isinstance(exc, UnboundLocalError):
            found = re.search(r"name '([^']+)'", message_of(exc))
            kind, name = "name-error", getattr(exc, "name", None) or (found.group(1) if found else None)
        else:
            kind = "import-error" if stage == "import" else "init-error"
            name = getattr(exc, "name", None) if isinstance(exc, ImportError) else None
    if WATCH.network:
        return dict(unknown(stage, "it needs the network, which relight does not use", names, exc), network=True)
    if isinstance(exc, MemoryError) or "DefaultCPUAllocator" in message_of(exc):
        return unknown(stage, "there is not enough memory to build it", names, exc)
    return failure(
        kind,
        exception=class_path(type(exc)),
        message=message_of(exc),
        stage=stage,
        name=name,
        traceback=user_traceback(exc, names),
        **user_frame(exc, names),
    )


def unknown(stage, reason, names, exc=None):
    facts = {} if exc is None else dict(user_frame(exc, names), exception=class_path(type(exc)))
    if exc is not None and message_of(exc):
        reason = "{} ({}: {})".format(reason, type(exc).__name__, message_of(exc)[:300])
    return failure("unknown", message=reason, stage=stage, **facts)


# ------------------------------------------------------------------ importing the target


class TargetError(Exception):
    def __init__(self, facts):
        Exception.__init__(self, facts["kind"])
        self.facts = facts


def _package_of(path):
    """(folder to put on the path, dotted name) of a file with relative imports in a package; None otherwise."""
    folder = os.path.dirname(path)
    if not os.path.isfile(os.path.join(folder, "__init__.py")):
        return None
    try:
        with open(path, "rb") as f:
            tree = ast.parse(f.read())
    except (SyntaxError, ValueError):
        return None
    if not any(isinstance(n, ast.ImportFrom) and n.level for n in ast.walk(tree)):
        return None
    parts = [os.path.splitext(os.path.basename(path))[0]]
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, name = os.path.split(folder)
        parts.insert(0, name)
    return folder, ".".join(parts)


def import_target(target, names):
    """Run the module of a target up to its end or its first stop; the module, and the failure if it did not run."""
    if target["file"] is not None:
        path = os.path.abspath(target["file"])
        if not os.path.isfile(path):
            raise TargetError(failure("target-file-missing", name=target["file"]))
        package = _package_of(path)
        if package is not None:
            sys.path.insert(0, package[0])
            return run_module(package[1], names, target)
        sys.path.insert(0, os.path.dirname(path))
        name = os.path.splitext(os.path.basename(path))[0]
        if not name.isidentifier() or name in sys.modules:
            name = "relight_target_" + re.sub(r"\W", "_", name)
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None:  # a script whose name does not end in .py
            from importlib.machinery import SourceFileLoader

            spec = importlib.util.spec_from_file_location(name, path, loader=SourceFileLoader(name, path))
        return run_spec(spec, names)
    return run_module(target["module"], names, target)


def run_module(name, names, target):
    # Not import_module for the last part: a module that stops half-way would be thrown away by it.
    parent = name.rpartition(".")[0]
    try:
        if parent:
            importlib.import_module(parent)
        if name in sys.modules:
            return sys.modules[name], None
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as exc:
        if exc.name and (name == exc.name or name.startswith(exc.name + ".")):
            raise TargetError(failure("target-file-missing", name=name, message=message_of(exc)))
        return None, failed(exc, "import", names)
    except Stop:
        raise TargetError(unknown("import", stopped_text(names), names))
    except BaseException as exc:
        if isinstance(exc, (KeyboardInterrupt, GeneratorExit)):
            raise
        return None, failed(exc, "import", names)
    if spec is None or spec.loader is None:
        raise TargetError(failure("target-file-missing", name=name))
    return run_spec(spec, names)


def run_spec(spec, names):
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    parent, _, last = spec.name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], last, module)
    problem = None
    try:
        spec.loader.exec_module(module)
    except Stop:
        pass
    except KeyboardInterrupt:
        raise
    except SystemExit as exc:
        # argparse under our own argv, or sys.exit() at the end: what was defined by then is what there is.
        WATCH.stopped_by = WATCH.stopped_by or "sys.exit"
        problem = unknown("import", "the script ends while it is imported", names, exc)
    except BaseException as exc:
        problem = failed(exc, "import", names)
    return module, problem


def stopped_text(names):
    if WATCH.stopped_at is None:
        return "it stops before the class is defined"
    return "{}:{} calls {} before the class is defined".format(
        names.show(WATCH.stopped_at[0]), WATCH.stopped_at[1], WATCH.stopped_by
    )


def is_lightning(cls, which="LightningModule"):
    return isinstance(cls, type) and any(
        c.__name__ == which and c.__module__.split(".")[0] in ("lightning", "pytorch_lightning") for c in cls.__mro__
    )


def is_library(cls):
    return cls.__module__.split(".")[0] in ("torch", "lightning", "pytorch_lightning", "lightning_fabric")


def find_object(module, name, problem, names, torch):
    """The class, factory or model that a target names, or TargetError."""
    spaces = dict(vars(module))
    lightning = [
        n
        for n, v in spaces.items()
        if is_lightning(v) and v.__module__ == module.__name__ and v.__name__ == n and not is_library(v)
    ]
    if name is None:
        found = [spaces[n] for n in lightning]
        stopped = WATCH.stopped_class
        if len(found) != 1 and stopped is not None and is_lightning(stopped) and not is_library(stopped):
            found = [stopped]  # the script itself says which one it would load
        if not found and problem is None and WATCH.stopped_by != "sys.exit":
            # A script that broke off may not have come to its own class: an imported one is no answer then.
            found = [v for v in spaces.values() if is_lightning(v) and not is_library(v)]
        if not found:
            found = [
                v
                for v in spaces.values()
                if isinstance(v, type) and issubclass(v, torch.nn.Module) and v.__module__ == module.__name__
            ]
        found = list({id(v): v for v in found}.values())
        if len(found) != 1:
            if problem is not None:
                raise TargetError(problem)
            if not found and WATCH.stopped_by is not None:
                raise TargetError(unknown("import", stopped_text(names), names))
            raise TargetError(
                failure("target-ambiguous", candidates=lightning or [v.__name__ for v in found], stage="import")
            )
        return found[0]
    found = module
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        if problem is not None:
            raise TargetError(problem)
        if WATCH.stopped_by is not None and WATCH.stopped_by != "sys.exit" and not defined_in(module, name):
            pass  # it is not in the file at all: a wrong name, wherever the script stopped
        elif WATCH.stopped_by is not None:
            raise TargetError(unknown("import", stopped_text(names), names))
        usable = [
            n
            for n, v in spaces.items()
            if (isinstance(v, type) and issubclass(v, torch.nn.Module) and not is_library(v))
            or (inspect.isfunction(v) and v.__module__ == module.__name__)
        ]
        close = [n for n in usable if n.lower() == name.lower()]
        close += [n for n in difflib.get_close_matches(name, usable, 5, 0.6) if n not in close]
        raise TargetError(
            failure("target-name-missing", name=name, suggestions=close, candidates=lightning, stage="import")
        )
    is_class = isinstance(found, type)
    good = (
        issubclass(found, torch.nn.Module) or is_lightning(found, "LightningDataModule")
        if is_class
        else (callable(found) or isinstance(found, torch.nn.Module))
    )
    if not good:
        what = class_path(found) if is_class else "a value of type " + class_path(type(found))
        raise TargetError(failure("target-wrong-type", name=name, message=what, candidates=lightning, stage="import"))
    return found


def models_of(module, torch):
    """Names of the models that a module defines, or that a package takes from its own modules, in order."""
    own = module.__name__ + "."
    found = {
        id(v): n
        for n, v in reversed(list(vars(module).items()))
        if isinstance(v, type)
        and issubclass(v, torch.nn.Module)
        and v.__name__ == n
        and (v.__module__ == module.__name__ or v.__module__.startswith(own))
    }
    return list(reversed(list(found.values())))


def defined_in(module, name):
    tree = parsed(getattr(module, "__file__", None))
    first = name.split(".")[0]
    for node in [] if tree is None else ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == first:
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == first:
            return True
        if isinstance(node, ast.alias) and (node.asname or node.name) == first:
            return True
    return False


# ------------------------------------------------------------------ reading the user's source

_trees = {}  # type: dict[str, object]


def parsed(path):
    if path not in _trees:
        tree = None
        if path and path.endswith(".py"):
            with contextlib.suppress(OSError, SyntaxError, ValueError, RecursionError):
                with open(path, "rb") as f:
                    tree = ast.parse(f.read())
        _trees[path] = tree
    return _trees[path]


def class_file(cls):
    return getattr(sys.modules.get(cls.__module__), "__file__", None)


def class_node(cls):
    """The class statement of a class of the user's code, None if it is not found."""
    path = class_file(cls)
    node = parsed(path) if is_user_file(path) else None
    for part in cls.__qualname__.split("."):
        if node is None:
            return None
        if part == "<locals>":
            continue
        wanted = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        matches = [n for n in ast.walk(node) if isinstance(n, wanted) and n.name == part and n is not node]
        node = matches[-1] if matches else None
    return node


def methods(cls, name=None):
    node = class_node(cls)
    for item in [] if node is None else node.body:
        if isinstance(item, ast.FunctionDef) and name in (None, item.name) and item.args.args:
            yield item


def _flat(target, value):
    if isinstance(target, (ast.Tuple, ast.List)):
        values = value.elts if isinstance(value, (ast.Tuple, ast.List)) else [None] * len(target.elts)
        if len(values) != len(target.elts):
            values = [None] * len(target.elts)
        for t, v in zip(target.elts, values):
            for pair in _flat(t, v):
                yield pair
    else:
        yield target, value


_assigned = {}  # type: dict[object, object]


def assigned(cls):
    """Attribute name -> [(line, value node)] of the ``self.name = ...`` statements in the methods of a class."""
    if cls in _assigned:
        return _assigned[cls]
    out = {}
    for method in methods(cls):
        own = method.args.args[0].arg
        for node in ast.walk(method):
            pairs = []
            if isinstance(node, ast.Assign):
                pairs = [p for t in node.targets for p in _flat(t, node.value)]
            elif isinstance(node, ast.AnnAssign):
                pairs = [(node.target, node.value)]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 2:
                first = node.args[0]
                if node.func.attr in ("add_module", "register_module") and isinstance(first, ast.Constant):
                    out.setdefault(first.value, []).append((node.lineno, node.args[1]))
            for target, value in pairs:
                if isinstance(target, ast.Attribute) and getattr(target.value, "id", None) == own:
                    out.setdefault(target.attr, []).append((target.lineno, value))
    _assigned[cls] = out
    return out


def called(node):
    func = getattr(node, "func", None)
    return getattr(func, "attr", getattr(func, "id", None))


def element(node, key):
    """The part of ``nn.Sequential(a, b)``, ``nn.ModuleList([a, b])``, ``nn.ModuleDict({...})`` that a key names."""
    if not isinstance(node, ast.Call):
        return None
    parts = list(node.args)
    if len(parts) == 1 and isinstance(parts[0], ast.Dict):
        for k, v in zip(parts[0].keys, parts[0].values):
            if isinstance(k, ast.Constant) and k.value == key:
                return v
        return None
    if len(parts) == 1 and isinstance(parts[0], (ast.List, ast.Tuple)):
        parts = list(parts[0].elts)
    if not key.isdigit() or any(isinstance(p, ast.Starred) for p in parts) or int(key) >= len(parts):
        return None
    return parts[int(key)]


class Lines(object):
    """Where in the user's source each module of a model is assigned."""

    def __init__(self, modules, names):
        self.modules = modules
        self.names = names
        self.known = {"": None}

    def find(self, path):
        if path not in self.known:
            self.known[path] = self._find(path)
        return self.known[path]

    def _find(self, path):
        parent, _, name = path.rpartition(".")
        owner, child = self.modules.get(parent), self.modules.get(path)
        above = self.find(parent)
        for cls in type(owner).__mro__ if owner is not None else ():
            places = assigned(cls).get(name) if is_user_file(class_file(cls)) else None
            if places:
                kinds = {type(child).__name__}
                line, node = next((p for p in places if called(p[1]) in kinds), places[0])
                return class_file(cls), line, node
        if above is None:
            return None
        node = element(above[2], name) if above[2] is not None else None
        return (above[0], above[1], None) if node is None else (above[0], node.lineno, node)

    def text(self, path):
        found = self.find(path)
        return None if found is None else "{}:{}".format(self.names.show(found[0]), found[1])


def guarded_names(path):
    """Names that a script sets under ``if __name__ == "__main__":``, which is not run here."""
    out = set()
    tree = parsed(path)
    for node in [] if tree is None else tree.body:
        if isinstance(node, ast.If) and "__name__" in {getattr(n, "id", None) for n in ast.walk(node.test)}:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                    out.add(inner.id)
                elif isinstance(inner, (ast.Import, ast.ImportFrom)):
                    out.update((a.asname or a.name).split(".")[0] for a in inner.names)
                elif isinstance(inner, (ast.FunctionDef, ast.ClassDef)):
                    out.add(inner.name)
    return out


def hook_keys(cls):
    """Keys that on_load_checkpoint reads by ``checkpoint["key"]`` without having set or looked for them."""
    owner = next((c for c in cls.__mro__ if "on_load_checkpoint" in vars(c)), None)
    if owner is None or is_library(owner):
        return []
    out = []
    for method in methods(owner, "on_load_checkpoint"):
        if len(method.args.args) < 2:
            continue
        name = method.args.args[1].arg
        guarded = set()

        def is_own(node, name=name):
            return isinstance(node, ast.Name) and node.id == name

        def constant(node):
            node = getattr(node, "value", node) if type(node).__name__ == "Index" else node  # Python 3.8
            return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None

        for node in ast.walk(method):
            if isinstance(node, ast.Compare) and any(is_own(c) for c in node.comparators):
                guarded.add(constant(node.left))
            elif isinstance(node, ast.Subscript) and is_own(node.value) and isinstance(node.ctx, ast.Store):
                guarded.add(constant(node.slice))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_own(node.func.value):
                if node.func.attr in ("get", "setdefault", "pop") and node.args:
                    guarded.add(constant(node.args[0]))
            elif isinstance(node, ast.Try):
                for inner in node.body:
                    guarded.update(
                        constant(n.slice) for n in ast.walk(inner) if isinstance(n, ast.Subscript) and is_own(n.value)
                    )
        for node in ast.walk(method):
            if isinstance(node, ast.Subscript) and is_own(node.value) and isinstance(node.ctx, ast.Load):
                key = constant(node.slice)
                if key is not None and key not in guarded and key not in out:
                    out.append(key)
    return out


# ------------------------------------------------------------------ describing a model


def init_signature(call, names):
    """The signature of a constructor or a factory, as facts."""
    function = call.__init__ if isinstance(call, type) else call
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    if isinstance(call, type):
        parameters = parameters[1:]
    code = getattr(inspect.unwrap(function), "__code__", None)
    location = None
    if code is not None and is_user_file(code.co_filename):
        location = "{}:{}".format(names.show(code.co_filename), code.co_firstlineno)
    out = []
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        required = p.default is p.empty
        try:
            default = None if required else repr(p.default)[:200]
        except Exception:
            default = "..."
        out.append({"name": p.name, "required": required, "default": default, "keyword_only": p.kind == p.KEYWORD_ONLY})
    return {
        "params": out,
        "var_keyword": any(p.kind == p.VAR_KEYWORD for p in parameters),
        "location": location,
    }


def load_hooks(module, torch):
    """What a module does to a state_dict before or while it loads it, besides the default."""
    out = []
    owner = next((c for c in type(module).__mro__ if "_load_from_state_dict" in vars(c)), torch.nn.Module)
    if owner is not torch.nn.Module:
        out.append(class_path(owner) + "._load_from_state_dict")
    for attribute in ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"):
        hooks = module.__dict__.get(attribute)
        for hook in [] if not hooks else list(hooks.values()):
            for _ in range(8):  # wrappers: _WrappedHook, functools.partial, bound methods
                inner = getattr(hook, "hook", None) or getattr(hook, "func", None) or getattr(hook, "__func__", None)
                if inner is None:
                    break
                hook = inner
            named = hook if hasattr(hook, "__qualname__") else type(hook)
            out.append(class_path(named))
    return out


def all_modules(model):
    try:
        return list(model.named_modules(remove_duplicate=False))
    except TypeError:  # torch < 1.9
        return list(model.named_modules())


def named(model, what):
    """All names of parameters or buffers, those of a shared one too."""
    return {
        (path + "." if path else "") + name: tensor
        for path, module in all_modules(model)
        for name, tensor in getattr(module, "_" + what).items()
        if tensor is not None
    }


HOOKS = ("on_load_checkpoint", "on_save_checkpoint", "configure_model", "configure_sharded_model", "load_state_dict",
         "state_dict", "_load_from_state_dict", "load_from_checkpoint")  # fmt: skip


def describe(model, names, torch):
    """The facts of a ModelSpec that need the model."""
    cls = type(model)
    modules = dict(all_modules(model))
    lines = Lines(modules, names)
    # The base class's own method: an override changes what is saved, not what loading asks for.
    entries = torch.nn.Module.state_dict(model, keep_vars=True)
    parameters, buffers = named(model, "parameters"), named(model, "buffers")
    groups = {}
    rows = []
    for key, value in entries.items():
        if not isinstance(value, torch.Tensor):
            rows.append((key, None, None, "extra_state", True))
            continue
        kind = "parameter" if key in parameters else "buffer"
        if kind == "buffer" and key.rpartition(".")[2] == "_extra_state":
            kind = "extra_state"
        own = parameters.get(key, buffers.get(key, value))
        groups.setdefault(id(own), []).append(key)
        rows.append((key, own, shape_of(own), kind, True))
    for key, value in buffers.items():
        if key not in entries:
            rows.append((key, value, shape_of(value), "buffer", False))
    params = []
    for key, value, shape, kind, persistent in rows:
        tied = [k for k in groups.get(id(value), ()) if k != key] if value is not None and persistent else []
        dtype = None if value is None else str(value.dtype)[6:]
        layout = "strided" if value is None else str(value.layout)[6:]
        params.append(
            {"key": key, "dtype": dtype, "shape": shape, "kind": kind, "persistent": persistent, "tied_with": tied,
             "layout": layout}
        )  # fmt: skip
    tree = []
    for path, module in modules.items():
        try:
            extra = str(module.extra_repr())
        except Exception:
            extra = ""
        tree.append(
            {
                "path": path,
                "class_path": class_path(type(module)),
                "extra_repr": extra[:500],
                "line": lines.text(path),
                "load_hooks": load_hooks(module, torch),
            }
        )
    return dict(
        describe_class(cls, names),
        params=params,
        modules=tree,
        strict_loading=getattr(model, "_strict_loading", None),
        architecture=architecture(model, names, torch),
    )


def architecture(model, names, torch):
    """What it computes, as a manifest describes it; None where that cannot be told."""
    try:
        return structure.structure(model, torch, names.show)
    except Exception:
        return None


def raw_bytes(tensor, torch):
    """The elements of a small tensor, one after the other; None for any other."""
    if tensor is None or tensor.numel() * tensor.element_size() > MOST_VALUE_BYTES or not tensor.numel():
        return None
    return bytes(bytearray(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).tolist()))


def shape_of(tensor):
    try:
        return [int(n) for n in tensor.shape]
    except RuntimeError:  # an uninitialised parameter of a lazy module
        return None


def describe_class(cls, names):
    hooks = []
    for name in HOOKS:
        owner = next((c for c in cls.__mro__ if name in vars(c)), None)
        if owner is not None and not is_library(owner) and owner is not object:
            hooks.append(name)
    path = class_file(cls)
    node = class_node(cls)
    return {
        "class_name": cls.__qualname__,
        "kind": kind_of(cls),
        "file": names.show(path) if path and is_user_file(path) else None,
        "line": None if node is None else node.lineno,
        "bases": [class_path(c) for c in cls.__mro__ if c is not object],
        "hooks": hooks,
        "hook_keys": hook_keys(cls),
    }


def kind_of(cls):
    if is_lightning(cls):
        return "lightning"
    return "datamodule" if is_lightning(cls, "LightningDataModule") else "module"


# ------------------------------------------------------------------ arguments, as Lightning passes them


def package_of(cls):
    """The Lightning package (``lightning.pytorch`` or ``pytorch_lightning``) that a class is built on."""
    for c in cls.__mro__:
        if c.__name__ in ("LightningModule", "LightningDataModule"):
            first = c.__module__.split(".")[0]
            if first == "pytorch_lightning":
                return sys.modules["pytorch_lightning"]
            if first == "lightning":
                return sys.modules["lightning.pytorch"]
    return None


def lightning_part(package, name):
    """A submodule of the installed Lightning, None if that version has none of this name."""
    try:
        return importlib.import_module(package.__name__ + "." + name)
    except ImportError:
        return None


class Arguments(object):
    """Keyword arguments for the constructor, and what became of the file's values on the way."""

    def __init__(self, kwargs, dropped, instantiator, sources):
        self.kwargs = kwargs
        self.dropped = dropped
        self.instantiator = instantiator
        self.sources = sources  # path prefixes in the file under which the passed values sit


def lightning_arguments(cls, checkpoint, init, hparams_file, package):
    """What _load_state of pytorch_lightning/core/saving.py (2.6) does before it calls the class."""
    saving = lightning_part(package, "core.saving")
    key = getattr(cls, "CHECKPOINT_HYPER_PARAMS_KEY", "hyper_parameters")
    if hparams_file is not None:
        ending = hparams_file.split(".")[-1].lower()
        if ending == "csv":
            checkpoint[key] = saving.load_hparams_from_tags_csv(hparams_file)
        elif ending in ("yml", "yaml"):
            checkpoint[key] = saving.load_hparams_from_yaml(hparams_file)
        else:
            raise ValueError(".csv, .yml or .yaml is required for `hparams_file`")
    checkpoint.setdefault(key, {})
    checkpoint[key].update(init)

    spec = inspect.getfullargspec(cls.__init__)
    accepted = [
        p.name
        for p in list(inspect.signature(cls.__init__).parameters.values())[1:]
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    loaded = {}
    sources = {}
    if issubclass(cls, package.LightningModule):
        for old in ("hparams", "module_arguments"):
            part = checkpoint.get(old, {})
            loaded.update(part)
            sources.update((k, (old, k)) for k in part)
    loaded.update(checkpoint[key])
    sources.update((k, (key, k)) for k in checkpoint[key])
    hparams_type = checkpoint.get(getattr(cls, "CHECKPOINT_HYPER_PARAMS_TYPE", "hparams_type"))
    if hparams_type and not isinstance(hparams_type, StandIn) and not any(map(calls_resolver, loaded.values())):
        if isinstance(hparams_type, str):
            hparams_type = getattr(saving, "AttributeDict", AttributeDict)
        loaded = hparams_type(loaded)
    whole = checkpoint.get(getattr(cls, "CHECKPOINT_HYPER_PARAMS_NAME", "hparams_name"))
    if whole and whole in accepted:
        loaded = {whole: loaded}
        sources = {whole: (key,)}
    kwargs = {}
    kwargs.update(loaded)
    kwargs.update(init)
    for name in init:
        sources.pop(name, None)
    instantiator = trusted_instantiator(cls, kwargs, saving) if saving is not None else None
    dropped = []
    if not spec.varkw:
        dropped = [k for k in kwargs if k not in accepted]
        kwargs = {k: v for k, v in kwargs.items() if k in accepted}
    return Arguments(kwargs, [str(k) for k in dropped], instantiator, sources)


INSTANTIATORS = ("lightning.pytorch.cli.instantiate_module", "pytorch_lightning.cli.instantiate_module")


def trusted_instantiator(cls, kwargs, saving):
    """LightningCLI's own way to call a class, where the file asks for it and nothing in it names a foreign class."""
    path = kwargs.pop("_instantiator", None)
    if path is None:
        return None
    allowed = getattr(saving, "_ALLOWED_INSTANTIATORS", INSTANTIATORS)  # the list came with 2.6
    if path not in allowed:
        raise ValueError(
            "The instantiator {!r} from the checkpoint is not in the allowlist of trusted"
            " instantiators and was blocked to prevent arbitrary code execution. If you trust this checkpoint,"
            " add the path to `{}._ALLOWED_INSTANTIATORS` before loading.".format(path, saving.__name__)
        )
    if path not in INSTANTIATORS:
        raise Unbuildable("the file asks for {}".format(path))
    wanted = kwargs.get("_class_path")
    check = getattr(saving, "_is_imported_subclass", None)
    if wanted is not None and check is not None and not check(wanted, cls):
        short = wanted.rpartition(".")[2] if isinstance(wanted, str) else ""
        if isinstance(wanted, str) and wanted.startswith("__main__.") and short == cls.__name__:
            kwargs["_class_path"] = class_path(cls)  # the script was __main__ when it saved, and will be
        else:
            raise ValueError(
                "The class {!r} requested by the checkpoint does not resolve to an already imported"
                " subclass of {} and was blocked to prevent arbitrary code execution. If you trust this"
                " checkpoint, import the module that defines the class before loading.".format(wanted, cls.__name__)
            )
    named_classes(kwargs)
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def named_classes(value, depth=0):
    """Raise Unbuildable where nested arguments name a class that jsonargparse would have to import."""
    if depth > 50:
        raise Unbuildable("its arguments are nested too deeply")
    if isinstance(value, dict):
        name = value.get("class_path")
        if isinstance(name, str):
            module, _, attribute = name.rpartition(".")
            found = getattr(sys.modules.get(module), attribute, None)
            torch = sys.modules["torch"]
            good = isinstance(found, type) and (
                issubclass(found, torch.nn.Module) or found.__module__.startswith("torch.optim")
            )
            if not good:
                raise Unbuildable("the file names the class {} as an argument".format(name))
        for part in value.values():
            named_classes(part, depth + 1)
    elif isinstance(value, (list, tuple)):
        for part in value:
            named_classes(part, depth + 1)


def plain_arguments(call, checkpoint, init, hparams_file):
    """For a plain nn.Module or a factory, which the user calls: the file's hyperparameters that it has a name for."""
    found = {}
    sources = {}
    if hparams_file is not None:
        with open(hparams_file, "r") as f:
            if hparams_file.lower().endswith((".yaml", ".yml")):
                import yaml

                found = dict(yaml.safe_load(f) or {})
            else:
                found = json.load(f)
    elif isinstance(checkpoint, dict):
        part = checkpoint.get("hyper_parameters")
        if isinstance(part, dict):
            found = {k: v for k, v in part.items() if isinstance(k, str)}
            sources = {k: ("hyper_parameters", k) for k in found}
    function = call.__init__ if isinstance(call, type) else call
    try:
        accepted = {
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        }
    except (TypeError, ValueError):
        accepted = set()
    kwargs = {k: v for k, v in found.items() if k in accepted}
    kwargs.update(init)
    return Arguments(kwargs, [], None, {k: v for k, v in sources.items() if k in kwargs and k not in init})


# ------------------------------------------------------------------ one target


def limit_memory():
    """Let a build on the CPU use what is free and no more; the machine is the user's."""
    try:
        import resource

        with open("/proc/meminfo") as f:
            free = next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))
        with open("/proc/self/status") as f:
            used = next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (used + int(free * 0.9), resource.getrlimit(resource.RLIMIT_DATA)[1]))
    except (ImportError, OSError, StopIteration, ValueError):
        pass


class Built(object):
    def __init__(self, model, device, decoder, checkpoint, arguments):
        self.model = model
        self.device = device
        self.decoder = decoder
        self.checkpoint = checkpoint
        self.arguments = arguments
        self.configured = False
        self.problem = None  # what configure_model raised


class Job(object):
    """One target with one checkpoint."""

    def __init__(self, request, target, torch):
        self.target = target
        self.torch = torch
        index = target["checkpoint"]
        self.file = None if index is None else request["checkpoints"][index]
        self.nodes = [] if self.file is None else self.file["nodes"]
        self.names = Names(request["cwd"], target["file"])
        self.answer = {"index": target["index"]}
        if "member" in target:
            self.answer["member"] = target["member"]
        self.object = None
        self.migration = None  # the exception that Lightning's migration of this file raised

    # -- steps

    def run(self):
        answer = self.answer
        try:
            module, problem = import_target(self.target, self.names)
            if module is None:
                raise TargetError(problem)
            if self.target["name"] == "*":
                self.list_models(module, problem)
                return
            self.object = find_object(module, self.target["name"], problem, self.names, self.torch)
            self.about_object(problem)
            built = self.build()
            self.configure(built)
            if built.problem is not None and built.device == "meta":
                with contextlib.suppress(Exception):  # it may only have asked a meta tensor for its value
                    again = self.build_on("cpu")
                    self.configure(again)
                    built = again
            answer["spec"] = dict(
                describe(built.model, self.names, self.torch)
                if isinstance(built.model, self.torch.nn.Module)
                else describe_class(type(built.model), self.names),
                **{k: answer[k] for k in ("passed", "dropped", "approximated")},
            )
            self.add_values(answer["spec"], built)
            answer["device"] = built.device
            if self.target["call"] == "resume" and kind_of(type(built.model)) == "lightning":
                answer["spec"]["training"] = self.training(built)
            if self.file is not None and isinstance(built.model, self.torch.nn.Module):
                answer["rehearsal"] = self.rehearse(built)
                if self.target["replay"] is not None and answer["rehearsal"]["ok"]:
                    answer["replay"] = self.replay(self.target["replay"])
                if self.target.get("seal") is not None and answer["rehearsal"]["ok"]:
                    answer["sealed"] = self.seal(self.target["seal"])
            if self.target.get("really") is not None:
                answer["loaded"] = self.load_really(self.target["really"])
        except TargetError as exc:
            answer["failure"] = exc.facts
            if self.migration is not None:  # that would have been raised before the class is called
                answer["rehearsal"] = self.verdict(self.migration, "migrate", None)
        except Stop:
            where = self.names.show(WATCH.stopped_at[0]) + ":" + str(WATCH.stopped_at[1]) if WATCH.stopped_at else "it"
            answer["failure"] = unknown("construct", "{} calls {}".format(where, WATCH.stopped_by), self.names)
        if WATCH.stopped_by is not None and WATCH.stopped_at is not None:
            answer["stopped_at"] = "{}:{}".format(self.names.show(WATCH.stopped_at[0]), WATCH.stopped_at[1])
            answer["stopped_by"] = WATCH.stopped_by
            answer["stopped_on_instance"] = WATCH.stopped_on_instance

    def add_values(self, spec, built):
        """The values of small buffers that the file lacks, where the constructor gives them the same twice."""
        state = built.checkpoint.get("state_dict") if isinstance(built.checkpoint, dict) else None
        if not isinstance(state, dict) or file_bytes(self.file) >= CPU_REHEARSAL_BYTES:
            return
        lacking = [
            p for p in spec.get("params", ())
            if p["kind"] == "buffer" and p["persistent"] and p["key"] not in state and p["layout"] == "strided"
        ]  # fmt: skip
        if not 0 < len(lacking) <= MOST_VALUES:
            return
        with contextlib.suppress(Exception):
            found = []
            for seed in (0, 1):  # what is drawn differs, and is no value of the class
                again = self.build_on("cpu", seed)
                self.configure(again)
                found.append(named(again.model, "buffers"))
            for row in lacking:
                raw = [raw_bytes(buffers.get(row["key"]), self.torch) for buffers in found]
                if raw[0] is not None and raw[0] == raw[1]:
                    row["value"] = base64.b64encode(raw[0]).decode("ascii")

    def list_models(self, module, problem):
        """The names only: each gets a job of its own, in this process."""
        members = models_of(module, self.torch)
        if not members and problem is not None:
            raise TargetError(problem)
        if not members and WATCH.stopped_by is not None:
            raise TargetError(unknown("import", stopped_text(self.names), self.names))
        self.answer["members"] = members

    def about_object(self, problem):
        found, answer = self.object, self.answer
        is_class = isinstance(found, type)
        cls = found if is_class else None
        if not is_class and isinstance(found, self.torch.nn.Module):
            cls = type(found)
        answer["class_kind"] = kind_of(found) if is_class else "factory"
        answer["class_name"] = getattr(found, "__qualname__", None) or type(found).__qualname__
        path = class_file(cls) if cls is not None else getattr(getattr(found, "__code__", None), "co_filename", None)
        answer["file"] = self.names.show(path) if path and is_user_file(path) else None
        answer["init"] = None if not is_class and not callable(found) else init_signature(found, self.names)
        if problem is not None and problem["kind"] != "unknown":
            raise TargetError(problem)  # the class is there, but running the script fails all the same

    def build(self):
        try:
            return self.build_on("meta")
        except Stop:
            raise
        except TargetError:
            raise
        except Exception:
            pass
        WATCH.network, WATCH.stand_in_used = False, None
        limit_memory()
        try:
            return self.build_on("cpu")
        except (Stop, TargetError):
            raise
        except Exception as exc:
            raise TargetError(self.construct_failed(exc))

    def decoded(self, device):
        """The file's objects on a device; for a file of tensors only, its state_dict."""
        if device == "cpu" and self.file is not None and file_bytes(self.file) >= CPU_REHEARSAL_BYTES:
            device = "meta"  # the constructor gets values, not the file's tensors
        decoder = Decoder(self.nodes, self.torch, device)
        if self.file is None:
            return decoder, {}
        if not self.file["has_root"]:
            return decoder, collections.OrderedDict((k, decoder.tensor(d, s)) for k, d, s in self.file["tensors"])
        try:
            return decoder, decoder.value(self.file["root"])
        except RecursionError:
            raise TargetError(unknown("construct", "the objects in the file are nested too deeply", self.names))

    def build_on(self, device, seed=0):
        torch, target = self.torch, self.target
        random.seed(seed)
        torch.manual_seed(seed)
        decoder, checkpoint = self.decoded(device)
        given = Decoder(target["init"]["nodes"], torch, device)
        init = {k: given.value(v) for k, v in target["init"]["values"].items()}
        found = self.object
        lightning = isinstance(found, type) and kind_of(found) in ("lightning", "datamodule")
        package = package_of(found) if lightning else None
        if package is not None and target["call"] != "weights":
            if self.file is not None:
                checkpoint = self.migrated(package, checkpoint, device, decoder)
            basis = checkpoint if isinstance(checkpoint, dict) else {}
            arguments = self.lightning_arguments(found, basis, init, package)
        else:
            arguments = plain_arguments(found, checkpoint, init, target["hparams_file"]) if callable(found) else None
            if isinstance(found, torch.nn.Module):
                arguments = Arguments({}, [], None, {})
        self.note(arguments, decoder)
        place = device_context(torch, device)
        with place:
            if isinstance(found, torch.nn.Module):
                # An instance that the script made has real values; a copy without them takes the rehearsal.
                model = found if device != "meta" else copy.deepcopy(found).to("meta")
            elif arguments.instantiator is not None:
                model = arguments.instantiator(found, arguments.kwargs)
            else:
                model = found(**arguments.kwargs)
        if not isinstance(model, torch.nn.Module) and not lightning:
            raise TargetError(
                failure(
                    "target-wrong-type",
                    name=target["name"],
                    message="it returns a value of type " + class_path(type(model)),
                    stage="construct",
                )
            )
        return Built(model, device, decoder, checkpoint, arguments)

    def lightning_arguments(self, cls, checkpoint, init, package):
        try:
            return lightning_arguments(cls, checkpoint, init, self.target["hparams_file"], package)
        except Unbuildable as exc:
            raise TargetError(unknown("construct", str(exc), self.names))

    def migrated(self, package, checkpoint, device, decoder):
        """What Lightning's own migration makes of the file; the file as it is where that raises."""
        migration = lightning_part(package, "utilities.migration.utils")
        migrate = getattr(migration, "_pl_migrate_checkpoint", None)
        if migrate is None:
            return checkpoint
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return migrate(checkpoint)
        except Exception as exc:
            self.migration = exc
            return self.decoded(device)[1]

    def note(self, arguments, decoder):
        """Write down which arguments are passed, dropped and approximated; stop where one of them tells nothing."""
        passed = list(arguments.kwargs)
        roots = [arguments.sources[k] for k in passed if k in arguments.sources]

        def reaches(path):
            return any(path[: len(r)] == r for r in roots)

        approximated = []
        for path in decoder.approximated:
            if reaches(path) and path_text(path) not in approximated:
                approximated.append(path_text(path))
        self.answer.update(passed=[str(k) for k in passed], dropped=arguments.dropped, approximated=approximated)
        for path, name in decoder.modules:
            if reaches(path):
                reason = "{} is an object of class {}, an nn.Module that cannot be rebuilt without running the file"
                raise TargetError(unknown("construct", reason.format(path_text(path), name), self.names))

    def construct_failed(self, exc):
        facts = failed(exc, "construct", self.names)
        kind, approximated = facts["kind"], self.answer.get("approximated")
        own_call = isinstance(exc, TypeError) and "__init__() " in message_of(exc)
        if approximated and kind == "init-error" and not own_call:
            reason = "a stand-in was passed for {}".format(", ".join(approximated[:3]))
            return unknown("construct", reason, self.names, exc)
        if (
            kind == "name-error"
            and self.target["file"] is not None
            and facts["name"] in guarded_names(os.path.abspath(self.target["file"]))
        ):
            reason = '{} is set under if __name__ == "__main__", which was not run'.format(facts["name"])
            return unknown("construct", reason, self.names, exc)
        return facts

    # -- rehearsal

    def configure(self, built):
        """Run configure_model, where a LightningModule makes its layers only then; loading calls it as well."""
        model = built.model
        if built.configured or self.target["call"] == "weights" or kind_of(type(model)) != "lightning":
            return
        built.configured = True
        if overrides(model, "configure_model"):
            try:
                with device_context(self.torch, built.device):
                    model.configure_model()
            except Exception as exc:
                built.problem = exc

    def training(self, built):
        """What configure_optimizers makes of the model: a resume gives the file's states to it by position."""
        model = built.model
        out = {"automatic": bool(getattr(model, "automatic_optimization", True)), "optimizers": [], "schedulers": []}
        if not overrides(model, "configure_optimizers"):
            return dict(out, unknown="the class has no configure_optimizers")
        try:
            with device_context(self.torch, built.device), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                optimizers, schedulers = configured(model.configure_optimizers())
            names = {}
            for name, parameter in model.named_parameters():
                names.setdefault(id(parameter), name)
            for optimizer in optimizers:
                out["optimizers"].append(described_optimizer(optimizer, names))
            out["schedulers"] = [described_scheduler(s) for s in schedulers]
        except Stop:
            return dict(
                out, unknown="configure_optimizers calls {}".format(WATCH.stopped_by), optimizers=[], schedulers=[]
            )
        except Exception as exc:
            reason = "configure_optimizers could not be run here ({}: {})".format(
                type(exc).__name__, message_of(exc, 200)
            )
            return dict(out, unknown=reason, optimizers=[], schedulers=[])
        return dict(out, unknown="")

    def rehearse(self, built):
        if self.migration is not None:
            return self.verdict(self.migration, "migrate", None)
        first = self.rehearse_on(built)
        if first["ok"] is not None or built.device == "cpu" or not self.cheap(built):
            return first
        try:  # values, though all zero: some hooks ask for one
            return self.rehearse_on(self.build_on("cpu"))
        except (Exception, Stop):
            return first

    # -- the probe of a manifest

    def replay(self, wanted):
        """What the model of today answers with the weights of the file to the input of the probe."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = self.with_weights(wanted)
                buffers = structure.unsaved_buffers(model, self.torch)  # before a forward fills some of them
                answer, steady = behaviour.asked_twice(model, wanted["module"], wanted["input"], self.torch)
        except Stop:
            return {"reason": "it calls {}".format(WATCH.stopped_by)}
        except Exception as exc:
            return {"reason": "{}: {}".format(type(exc).__name__, message_of(exc, limit=300))}
        return {"answer": answer, "steady": steady, "buffers": buffers}

    def seal(self, wanted):
        """What a manifest says of the model of today, with the weights of the file; a part that fails, with the reason."""
        torch, out, omitted = self.torch, {}, {}

        def take(name, collect):
            try:
                value = collect()
            except (Exception, Stop) as exc:
                omitted[name] = "{}: {}".format(type(exc).__name__, message_of(exc, limit=300))
            else:
                if value is not None:
                    out[name] = value

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            take("model", lambda: self.with_weights(wanted))
            model = out.pop("model", None)
            if model is None:
                return {"omitted": omitted}
            around = _beside("manifest", "environment")
            take("architecture", lambda: structure.structure(model, torch, self.names.show))
            take("init", lambda: structure.init_facts(model))
            take("source", lambda: structure.class_digests(model))
            take("environment", lambda: around.environment(torch))
            take("distributions", lambda: around.distributions(out.get("architecture")))
            path = class_file(type(model))
            take("repository", lambda: around.repository(os.path.dirname(os.path.abspath(path))) if path else None)
            take("probe", lambda: self.sealed_probe(model, wanted["input"]))
        return dict(out, omitted=omitted)

    def sealed_probe(self, model, form):
        """What it answers to an input of the form that was given, or of the one that it has as its example."""
        origin = "input"
        if form is None:
            example = getattr(model, "example_input_array", None)
            if example is None:
                raise behaviour.Unsuitable("no form of an input is known")
            origin = "example"
            args = tuple(example) if isinstance(example, (tuple, list)) else (example,)
            args, kwargs = ((), example) if isinstance(example, dict) else (args, {})
            form = behaviour.call_of(args, kwargs, self.torch)
        answer, steady = behaviour.asked_twice(model, "", form, self.torch)
        if not steady:
            raise behaviour.Unsuitable("it answers differently every time")
        return dict(answer, module="", input=form, generator=behaviour.GENERATOR, **{"from": origin})

    def with_weights(self, wanted):
        """The model on the CPU, with the values that stand in the file at the given places."""
        built = self.build_on("cpu")
        self.configure(built)
        if built.problem is not None:
            raise built.problem
        model, checkpoint = built.model, built.checkpoint
        lightning = kind_of(type(model)) == "lightning" and self.target["call"] != "weights"
        state = checkpoint["state_dict"] if lightning else self.state_dict(built, checkpoint)
        with open(wanted["file"], "rb") as f:
            for key, dtype, shape, start, length in wanted["tensors"]:
                f.seek(start)
                raw = bytearray(f.read(length))
                if len(raw) != length:
                    raise ValueError("the file ends inside {}".format(key))
                kind = getattr(self.torch, dtype)
                value = self.torch.frombuffer(raw, dtype=kind) if length else self.torch.empty(0, dtype=kind)
                if key in state:
                    state[key] = value.reshape(shape)
        strict = True if self.target["strict"] is None else self.target["strict"]
        if lightning:
            strict = lightning_strict(model, self.target["strict"])
            model.on_load_checkpoint(checkpoint)
        model.load_state_dict(state, strict=strict)
        return model

    def cheap(self, built):
        total = file_bytes(self.file)
        with contextlib.suppress(Exception):
            total += sum(p.numel() * p.element_size() for p in built.model.parameters())
        return total < CPU_REHEARSAL_BYTES

    def rehearse_on(self, built):
        model, checkpoint, strict = built.model, built.checkpoint, self.target["strict"]
        stage = "load_state_dict"
        keys = None
        try:
            with device_context(self.torch, built.device), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if kind_of(type(model)) == "lightning" and self.target["call"] != "weights":
                    stage = "strict"
                    strict = lightning_strict(model, strict)
                    stage = "configure_model"
                    self.configure(built)
                    if built.problem is not None:
                        raise built.problem
                    stage = "on_load_checkpoint"
                    model.on_load_checkpoint(checkpoint)
                    stage = "load_state_dict"
                    state = checkpoint["state_dict"]
                else:
                    strict = True if strict is None else strict
                    state = self.state_dict(built, checkpoint)
                if built.device == "cpu" and not self.cheap(built):
                    model = model.to("meta")  # the values do not matter, the memory does
                keys = model.load_state_dict(state, strict=strict)
        except Stop:
            return {"ok": None, "stage": stage, "message": "it calls {}".format(WATCH.stopped_by)}
        except Exception as exc:
            return self.verdict(exc, stage, built)
        return {
            "ok": True,
            "missing": list(getattr(keys, "missing_keys", ())),
            "unexpected": list(getattr(keys, "unexpected_keys", ())),
        }

    def load_really(self, path):
        """The real call, with real values. Only for files that relight wrote, and never without weights_only."""
        torch, target, found = self.torch, self.target, self.object
        given = Decoder(target["init"]["nodes"], torch, "cpu")
        init = {k: given.value(v) for k, v in target["init"]["values"].items()}
        built = None
        try:
            with as_they_were(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if isinstance(found, type) and kind_of(found) == "lightning" and target["call"] != "weights":
                    arguments = dict(init, map_location="cpu")
                    for name in ("strict", "hparams_file"):
                        if target[name] is not None:
                            arguments[name] = target[name]
                    call = found.load_from_checkpoint
                    if "weights_only" in inspect.signature(call).parameters:
                        arguments["weights_only"] = True
                    call(path, **arguments)
                    by = "load_from_checkpoint"
                    if target["call"] == "resume":
                        by = self.resume_really(path) or by
                else:
                    state = torch.load(path, map_location="cpu", weights_only=True)
                    built = self.build_on("cpu")
                    for step in self.file["state_dict_path"] or ():
                        state = state[built.decoder.value(step)]
                    built.model.load_state_dict(state, strict=True if target["strict"] is None else target["strict"])
                    by = "torch.load and load_state_dict"
        except (Stop, TargetError) as exc:
            return {"ok": None, "stage": "load", "message": str(exc) or "it could not be built"}
        except Exception as exc:
            return self.verdict(exc, "load", built)
        return {"ok": True, "stage": by}

    def resume_really(self, path):
        """Where the real Trainer starts with a file that relight wrote; it is stopped before its first step.

        None where hooks of the class would run before: they may load data, or write.
        """
        built = self.build_on("cpu")
        model = built.model
        hooks = ("setup", "prepare_data", "on_fit_start", "configure_callbacks", "teardown", "on_load_checkpoint")
        package = package_of(type(model))
        if package is None or any(overrides(model, hook) for hook in hooks):
            return None
        at = []

        class Reached(Exception):
            pass

        class Watch(package.Callback):
            def on_train_start(self, trainer, module):
                at.append((int(trainer.current_epoch), int(trainer.global_step)))
                raise Reached

        logging.disable(logging.CRITICAL)
        folder = tempfile.mkdtemp(prefix="relight-")
        try:
            trainer = package.Trainer(
                accelerator="cpu", devices=1, max_epochs=-1, logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
                default_root_dir=folder, callbacks=[Watch()],
            )  # fmt: skip
            loader = self.torch.utils.data.DataLoader([0])
            trainer.fit(model, train_dataloaders=loader, ckpt_path=path)
        except Reached:
            pass
        except Exception as exc:
            frames = traceback.extract_tb(exc.__traceback__)
            if any(f.filename.endswith("checkpoint_connector.py") for f in frames):
                raise  # what the file holds could not be restored
            return None
        finally:
            logging.disable(logging.NOTSET)
            shutil.rmtree(folder, ignore_errors=True)
        return None if not at else "Trainer.fit, which starts at epoch {}, step {}".format(*at[0])

    def state_dict(self, built, checkpoint):
        """The state_dict of a file that the user would pick out of it by hand."""
        found = checkpoint
        steps = self.file["state_dict_path"] if self.file["has_root"] else []
        for step in steps or ():
            step = built.decoder.value(step)
            found = found[step] if not (isinstance(step, str) and step.startswith(".")) else getattr(found, step[1:])
        if steps is None and isinstance(found, dict) and "state_dict" in found:
            found = found["state_dict"]
        return found.state_dict() if isinstance(found, self.torch.nn.Module) else found

    def verdict(self, exc, stage, built, conclusive=True):
        text = message_of(exc, limit=8000000)  # it names every key, of which large models have ten thousands
        known = stage == "load_state_dict" and text.startswith("Error(s) in loading state_dict")
        doubtful = WATCH.network or WATCH.stand_in_used or isinstance(exc, MemoryError)
        if built is not None:
            doubtful = doubtful or isinstance(exc, NotImplementedError) or built.decoder.inexact
            if built.device == "meta" and re.search(r"\bmeta\b|\.item\(\)|data.?dependent", text):
                doubtful = True
        if doubtful and not known:
            conclusive = False
        facts = dict(
            ok=False if conclusive else None,
            stage=stage,
            exception=class_path(type(exc)),
            message=text,
            missing=listed("Missing", text) if known else [],
            unexpected=listed("Unexpected", text) if known else [],
        )
        facts.update(user_frame(exc, self.names))
        return facts


def configured(value):
    """The optimizers and schedulers in what configure_optimizers returns, in the order in which Lightning takes them."""
    if value is None:
        return [], []
    if isinstance(value, dict):
        value = [value]
    elif isinstance(value, (list, tuple)):
        if len(value) == 2 and all(isinstance(part, (list, tuple)) for part in value):
            optimizers, schedulers = value
            return list(optimizers), [s["scheduler"] if isinstance(s, dict) else s for s in schedulers]
    else:
        value = [value]
    optimizers, schedulers = [], []
    for part in value:
        if isinstance(part, dict):
            optimizers.append(part["optimizer"])
            scheduler = part.get("lr_scheduler")
            if scheduler is not None:
                schedulers.append(scheduler["scheduler"] if isinstance(scheduler, dict) else scheduler)
        else:
            optimizers.append(part)
    return optimizers, schedulers


def is_plain_option(value):
    """Whether the value of an option can be written down: betas are a tuple of numbers."""
    return isinstance(value, (bool, int, float, str)) or (
        isinstance(value, tuple) and bool(value) and all(v is None or isinstance(v, (int, float)) for v in value)
    )


def described_optimizer(optimizer, names):
    """The class of an optimizer, and its groups with the names of their parameters and their plain options."""
    groups = []
    for group in optimizer.param_groups:
        plain = {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in group.items()
            if k not in ("params", "param_names") and (v is None or is_plain_option(v))
        }
        others = [k for k in group if k not in plain and k not in ("params", "param_names")]
        parameters = [names.get(id(p)) for p in group["params"]]
        if None in parameters:
            raise ValueError("an optimizer has a parameter that the model has not")
        groups.append({"parameters": parameters, "options": plain, "others": others})
    return {"class_path": class_path(type(optimizer)), "groups": groups}


def described_scheduler(scheduler):
    """The class of a learning rate scheduler and what is in its state: names, and values that are plain."""
    out = {"class_path": class_path(type(scheduler)), "options": {}, "others": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = scheduler.state_dict()
    for key, value in state.items() if isinstance(state, dict) else ():
        plain = (
            value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and value - value == 0)
        )
        if isinstance(key, str) and plain:
            out["options"][key] = value
        elif isinstance(key, str):
            out["others"].append(key)
    return out


def listed(word, text):
    """Keys of a paragraph of torch's message."""
    found = re.search(word + r" key\(s\) in state_dict: (.*?)\. ?(?:\n|$)", text, re.S)
    return [] if found is None else re.findall(r'"([^"]*)"', found.group(1))


def lightning_strict(model, strict):
    own = getattr(model, "_strict_loading", None)
    if own is not None and strict is not None and strict != model.strict_loading:
        raise ValueError(
            "You set `.load_from_checkpoint(..., strict={!r})` which is in conflict with"
            " `{}.strict_loading={!r}`. Please set the same value for both of them.".format(
                strict, type(model).__name__, model.strict_loading
            )
        )
    if strict is None:
        return getattr(model, "strict_loading", True)
    return strict


def overrides(model, name):
    owner = next((c for c in type(model).__mro__ if name in vars(c)), None)
    return owner is not None and not is_library(owner)


def file_bytes(file):
    """An upper bound of the bytes of every tensor in a file: eight per element."""
    shapes = [shape for _, _, shape in file["tensors"] or ()]
    nodes = file["nodes"]
    for node in nodes:
        if node[0] == "call" and len(node[2]) > 3:
            shape = node[2][2]
            body = nodes[shape[1]] if isinstance(shape, list) and shape[0] == "n" else None
            if body is not None and body[0] == "tuple" and all(isinstance(n, int) for n in body[1]):
                shapes.append(body[1])
    total = 0
    for shape in shapes:
        elements = 8
        for n in shape:
            elements *= n
        total += elements
    return total


def device_context(torch, device):
    if device == "cpu":
        return contextlib.nullcontext()
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < (2, 0):
        raise NotImplementedError("torch.device as a context manager came with torch 2.0")
    return torch.device(device)


def path_text(path):
    """As relight.core.objects.ObjectPath prints it."""
    out = []
    for step in path:
        if isinstance(step, str) and step.isidentifier():
            out.append(("." if out else "") + step)
        else:
            out.append("[{!r}]".format(step) if isinstance(step, (str, int, float, bytes)) else "[...]")
    return "".join(out) or "$"


# ------------------------------------------------------------------ the process


class OpenFiles(object):
    """Files of the user's that were read: an answer stays true as long as they stay the same."""

    def __init__(self):
        self.paths = set()
        self.folders = set()
        self.on = False

    def __call__(self, event, args):
        if not self.on:
            return
        if event == "open" and isinstance(args[0], str) and (args[1] is None or "w" not in str(args[1])):
            self.paths.add(args[0])
        elif event in ("os.listdir", "os.scandir") and args and isinstance(args[0], str):
            self.folders.add(args[0])


def user_paths(paths, cwd):
    for path in paths:
        full = os.path.realpath(os.path.join(cwd, path))
        if is_user_file(full) and not full.startswith(("/proc", "/sys", "/dev")):
            yield full


def about_torch(torch):
    count, mps = None, None
    with contextlib.suppress(Exception):
        count = int(torch.cuda.device_count())
    with contextlib.suppress(Exception):
        mps = bool(torch.backends.mps.is_available())
    return {"torch": str(torch.__version__), "cuda_devices": count, "mps": mps}


def main(request_path, answer_path):
    global WATCH
    gc.disable()
    with io.open(request_path, "r", encoding="utf-8") as f:
        request = json.load(f)
    gc.freeze()  # a large table that stays: collecting need not look at it again
    gc.enable()
    cwd = request["cwd"]
    os.chdir(cwd)
    opened = OpenFiles()
    sys.addaudithook(opened)
    with io.open(answer_path, "a", encoding="utf-8") as out:

        def write(data):
            out.write(json.dumps(data) + "\n")
            out.flush()

        about = {
            "python": ".".join(str(n) for n in sys.version_info[:3]),
            "platform": sys.platform,
            "search_path": [p for p in sys.path if p] + [cwd],
        }
        warnings.simplefilter("ignore")
        sys.path[:] = [p for p in sys.path if p]
        if not any(os.path.realpath(p) == os.path.realpath(cwd) for p in sys.path):
            sys.path.append(cwd)
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
        try:
            import torch
        except BaseException as exc:
            about["no_torch"] = failure("no-torch", exception=class_path(type(exc)), message=message_of(exc))
            write({"about": about})
            return
        sys.dont_write_bytecode = True  # a question leaves nothing behind in the user's folders
        about.update(about_torch(torch))
        write({"about": about})
        patch_torch(torch)
        sys.meta_path.insert(0, AfterImport())
        network_off()
        opened.on = True
        targets = list(request["targets"])
        for target in targets:  # it grows: a target that means all models of a module is answered by one each
            write({"started": target["index"]})
            WATCH = Watch()
            before, path = set(sys.modules), list(sys.path)
            opened.paths.clear()
            opened.folders.clear()
            sys.argv[:] = [target["file"] or target["module"]]
            job = Job(request, target, torch)
            try:
                job.run()
            except SystemExit as exc:
                job.answer["failure"] = unknown("construct", "it ends the program", job.names, exc)
            except Exception as exc:
                job.answer["failure"] = unknown("construct", "relight could not describe it", job.names, exc)
                job.answer["defect"] = traceback.format_exc()[-4000:]
            loaded = [getattr(m, "__file__", None) for n, m in list(sys.modules.items()) if n not in before]
            files = set(user_paths([p for p in loaded if p], cwd)) | set(user_paths(opened.paths, cwd))
            job.answer["files"] = sorted(files)
            job.answer["folders"] = sorted({os.path.realpath(os.path.join(cwd, d)) for d in opened.folders})
            job.answer["search_path"] = list(sys.path)
            write(job.answer)
            targets.extend(dict(target, name=n, member=n) for n in job.answer.get("members", ()))
            # The next target may mean another models.py.
            for name in set(sys.modules) - before:
                if is_user_file(getattr(sys.modules[name], "__file__", None)):
                    del sys.modules[name]
            sys.path[:] = path
            os.chdir(cwd)
            _assigned.clear()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
