"""What a model answers to a seeded input: one stand-alone file for Python 3.8 and newer.

A training program and the process that builds the model of today make the same input from the same form, run the
module in eval mode without autocast, and note a few numbers of what comes out. Integers make the input, so that it is
the same bit for bit on every device and in every version; sums of floats differ, so outputs are compared with a
tolerance.
"""

# ruff: noqa: D103 - what is obvious from a name has no docstring
# ruff: noqa: B905, SIM105, SIM117, PERF401 - written for Python 3.8

import contextlib
import copy
import math
import random
import re

SEED = 20240229
GENERATOR = "hash20/1"  # how inputs are made: another way is another question
SAMPLE, ROWS, LEAVES = 64, 64, 16
ELEMENTS = 1 << 18
NUMBERS = 8  # as many as a size or a stride may have: more of them are data
FLAG = re.compile(r"[A-Za-z_][\w.\-]{0,31}$").match
BUFFERS = 64 * 1024 * 1024


class Unsuitable(Exception):
    """The input has no form that could be made again, or the model is none to be asked."""


# ------------------------------------------------------------------ the form of an input


def form_of(value, torch, depth=0):
    """The form of an argument: shapes and types, and for integers the range; never the values of the user's data."""
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_quantized:
            raise Unsuitable("an argument is no plain tensor")
        out = {"tensor": str(value.dtype)[6:], "shape": [int(n) for n in value.shape]}
        if not value.is_floating_point() and not value.is_complex() and value.dtype is not torch.bool:
            flat = value.detach()
            out["low"] = int(flat.min()) if flat.numel() else 0
            out["high"] = int(flat.max()) if flat.numel() else 0
        return out
    if isinstance(value, str) and (depth or not FLAG(value)):
        # A word may choose a branch, as mode="train"; anything else is somebody's text.
        raise Unsuitable("an argument is text, which is not written down")
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    if (
        isinstance(value, (list, tuple))
        and len(value) > NUMBERS
        and not any(isinstance(v, torch.Tensor) for v in value)
    ):
        raise Unsuitable("an argument is a list of values, which are not written down")
    if depth < 4 and isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return {type(value).__name__: [form_of(v, torch, depth + 1) for v in value]}
    if depth < 4 and isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {"dict": {k: form_of(v, torch, depth + 1) for k, v in value.items()}}
    raise Unsuitable("an argument of type {} has no form that could be made again".format(type(value).__name__))


def call_of(args, kwargs, torch):
    """The form of a call, cut to a batch that costs little."""
    form = {"args": [form_of(a, torch) for a in args], "kwargs": {k: form_of(v, torch) for k, v in kwargs.items()}}
    tensors = list(_tensors(form))
    if not tensors:
        raise Unsuitable("no argument is a tensor")
    batch = next((t["shape"][0] for t in tensors if t["shape"]), 0)
    elements = sum(_product(t["shape"]) for t in tensors)
    wanted = batch
    if batch and any(len(t["shape"]) > 3 for t in tensors):
        wanted = min(batch, 8)
    if batch and elements > ELEMENTS:
        wanted = max(1, min(wanted, batch * ELEMENTS // elements))
    for t in tensors:
        if t["shape"] and t["shape"][0] == batch:
            t["shape"][0] = wanted
    if sum(_product(t["shape"]) for t in tensors) > 8 * ELEMENTS:
        raise Unsuitable("one example is larger than a probe should be")
    return form


def cut(form):
    """The form with one example in place of a batch; None where it has no more than one already."""
    form = copy.deepcopy(form)
    tensors = [t for t in _tensors(form) if t["shape"]]
    batch = tensors[0]["shape"][0] if tensors else 0
    if batch < 2:
        return None
    for t in tensors:
        if t["shape"][0] == batch:
            t["shape"][0] = 1
    return form


def _tensors(form):
    if isinstance(form, dict):
        if "tensor" in form:
            yield form
        else:
            for part in form.values():
                for inner in _tensors(part):
                    yield inner
    elif isinstance(form, list):
        for part in form:
            for inner in _tensors(part):
                yield inner


def _product(shape):
    out = 1
    for n in shape:
        out *= n
    return out


def make(form, torch, device, dtype, seed=None):
    """An argument of a form. Floating point numbers get the type of the model."""
    counter = [SEED] if seed is None else seed
    if "value" in form:
        return form["value"]
    if "dict" in form:
        return {k: make(v, torch, device, dtype, counter) for k, v in form["dict"].items()}
    for name, kind in (("list", list), ("tuple", tuple)):
        if name in form:
            return kind(make(v, torch, device, dtype, counter) for v in form[name])
    shape, name = form["shape"], form["tensor"]
    counter[0] += 1
    bits = _bits(_product(shape), counter[0], torch)
    wanted = getattr(torch, name)
    if name == "bool":
        return (bits % 4 != 0).reshape(shape).to(device)
    if "low" in form:
        return (bits % (form["high"] - form["low"] + 1) + form["low"]).to(wanted).reshape(shape).to(device)
    # Even numbers of variance 1: a fraction of 2**20 is exact in float32 before it is scaled.
    values = (bits.to(torch.float32) / 1048576.0 * 2.0 - 1.0) * 1.7320508
    if wanted.is_complex:
        values = torch.complex(values, values.flip(0))
        return values.to(wanted).reshape(shape).to(device)
    return (
        values.to(dtype if wanted in (torch.float16, torch.bfloat16, torch.float32) else wanted)
        .reshape(shape)
        .to(device)
    )


def _bits(count, seed, torch):
    """Twenty bits for each position: an integer hash (the finaliser of MurmurHash3), exact everywhere."""
    x = (torch.arange(count, dtype=torch.int64) + seed * 2654435761) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return (x ^ (x >> 16)) & 0xFFFFF


# ------------------------------------------------------------------ running


@contextlib.contextmanager
def undisturbed(root, torch):
    """Eval mode, no gradients, no autocast, no TF32; afterwards flags, buffers and random numbers are as they were."""
    flags = [(m, m.training) for m in root.modules()]
    buffers = [b for b in root.buffers() if b.device.type != "meta"]
    if sum(b.numel() * b.element_size() for b in buffers) > BUFFERS:
        raise Unsuitable("its buffers are too large to be kept safe")
    kept = [(b, b._version, b.detach().clone()) for b in buffers]
    device = next((p.device for p in root.parameters()), torch.device("cpu"))
    devices = [device] if device.type == "cuda" else []
    settings = _settings(torch)
    logging = [name for name in ("log", "log_dict") if callable(getattr(root, name, None))]
    try:
        for name, owner, _ in settings:
            setattr(owner, name, False)
        for name in logging:  # a metric of a run must not get a value of a made-up batch
            object.__setattr__(root, name, _nothing)
        for module, _ in flags:
            module.training = False
        with torch.random.fork_rng(devices=devices), torch.no_grad(), _no_autocast(torch, device.type):
            yield device
    finally:
        for module, flag in flags:
            module.training = flag
        for name in logging:
            vars(root).pop(name, None)
        for name, owner, value in settings:
            setattr(owner, name, value)
        with torch.no_grad():
            for buffer, version, values in kept:
                if buffer._version != version:
                    buffer.copy_(values)


def _nothing(*args, **kwargs):
    return None


def _settings(torch):
    out = []
    for owner in (getattr(torch.backends.cuda, "matmul", None), torch.backends.cudnn):
        with contextlib.suppress(Exception):
            out.append(("allow_tf32", owner, owner.allow_tf32))
    return out


def _no_autocast(torch, kind):
    try:
        return torch.autocast(device_type=kind, enabled=False)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return contextlib.nullcontext()


def module_at(root, path):
    """A module by its path; by nothing else: the path may come from a file."""
    return dict(root.named_modules())[path]


def answer(root, path, form, torch):
    """What the module at a path of a model answers: its outputs in numbers, and the type that it computes in."""
    module = module_at(root, path)
    with undisturbed(root, torch) as device:
        kinds = [p.dtype for p in module.parameters() if p.is_floating_point()]
        dtype = kinds[0] if kinds else torch.float32
        seed = [SEED]
        args = [make(a, torch, device, dtype, seed) for a in form["args"]]
        kwargs = {k: make(v, torch, device, dtype, seed) for k, v in sorted(form["kwargs"].items())}
        outputs = module(*args, **kwargs)
        leaves = list(_outputs(outputs, torch))
        if not leaves:
            raise Unsuitable("it gives back no tensor")
        return {"dtype": str(dtype)[6:], "outputs": [numbers(n, t, torch) for n, t in leaves[:LEAVES]]}


def asked_twice(root, path, form, torch):
    """Its answer, and whether it gives the same one with other random numbers. Those of the program stay as they are."""
    kept = random.getstate()
    answers = []
    try:
        for seed in (1, 2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                random.seed(seed)
                answers.append(answer(root, path, form, torch))
    finally:
        random.setstate(kept)
    return answers[0], answers[0] == answers[1]


def _outputs(value, torch, name="", depth=0):
    if isinstance(value, torch.Tensor):
        yield name, value
    elif depth > 4:
        return
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            for leaf in _outputs(part, torch, "{}[{}]".format(name, i), depth + 1):
                yield leaf
    elif isinstance(value, dict):
        for key, part in value.items():
            for leaf in _outputs(part, torch, "{}.{}".format(name, key), depth + 1):
                yield leaf


def numbers(name, tensor, torch):
    """A few numbers of one output: statistics over all of it, a sample, the largest position of each row."""
    out = {"name": name, "dtype": str(tensor.dtype)[6:], "shape": [int(n) for n in tensor.shape]}
    wide = tensor.detach()
    wide = torch.view_as_real(wide) if wide.is_complex() else wide
    flat = wide.reshape(-1).to("cpu").to(torch.float64)
    if not flat.numel():
        return out
    finite = flat[torch.isfinite(flat)]
    out["finite"] = int(finite.numel())
    if finite.numel():
        out["statistics"] = [
            rounded(v) for v in (finite.mean(), finite.std(unbiased=False), finite.min(), finite.max())
        ]
    # Spread by a large prime: equal steps would meet the same column of every row.
    places = [i * 2654435761 % flat.numel() for i in range(min(SAMPLE, flat.numel()))]
    out["sample"] = [rounded(v) for v in flat[torch.tensor(places)]]
    if tensor.dim() == 2 and tensor.is_floating_point() and 1 < tensor.shape[1] <= 100000:
        top = tensor[:ROWS].detach().to("cpu").to(torch.float64).topk(2, dim=1)
        out["largest"] = [int(i) for i in top.indices[:, 0]]
        # Where the two largest are nearly equal, rounding decides which is first.
        out["lead"] = [rounded(v) for v in top.values[:, 0] - top.values[:, 1]]
    return out


def rounded(value):
    value = float(value)
    return float("{:.7g}".format(value)) if math.isfinite(value) else repr(value)
