"""What a model computes, as far as its objects and its source show it: one stand-alone file for Python 3.8 and newer.

Two processes use it: a training program that writes a manifest, and the child process that builds the model of today.
It asks objects for their attributes and parses source files; it calls nothing of the user's but ``extra_repr``.
"""

# ruff: noqa: D103 - what is obvious from a name has no docstring
# ruff: noqa: B905, SIM102, SIM105, SIM114, SIM117, PERF401 - written for Python 3.8, one condition per line

import ast
import contextlib
import enum
import functools
import hashlib
import inspect
import linecache
import os
import sys
import sysconfig
import types

HERE = os.path.dirname(os.path.realpath(__file__))
RELIGHT = tuple(os.path.join(os.path.dirname(HERE), name) + os.sep for name in ("live", "manifest"))
ITEMS, TEXT, MODULES, FUNCTIONS = 64, 200, 20000, 400

# ------------------------------------------------------------------ whose file is it


def _library_folders():
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    paths = {sysconfig.get_paths().get(n) for n in names}
    paths.update(p for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages"))
    return tuple(os.path.realpath(p) + os.sep for p in paths if p)


LIBRARIES = _library_folders()
_user_files = {}  # type: dict[str, bool]


def is_user_file(path):
    """Whether a file is the user's own code: not installed, not the standard library, not relight."""
    if not path or path.startswith("<"):
        return False
    known = _user_files.get(path)
    if known is None:
        real = os.path.realpath(path)
        known = (
            not real.startswith(RELIGHT)
            and os.path.isfile(real)
            and not real.startswith(LIBRARIES)
            and os.sep + "site-packages" + os.sep not in real
            and os.sep + "dist-packages" + os.sep not in real
        )
        _user_files[path] = known
    return known


def is_users(path):
    """Whether source is the user's own: a file, or a cell of a notebook."""
    return is_user_file(path) or (
        bool(path) and ("ipython-input" in path or "ipykernel" in path) and path in linecache.cache
    )


def module_name(name, path=None):
    """A module as it is called when it is imported: the script of a training run is ``__main__`` only there."""
    if name == "__main__" or (name or "").startswith("relight_target_"):
        path = path or getattr(sys.modules.get(name), "__file__", None)
        return os.path.splitext(os.path.basename(path))[0] if path else name
    return name


def class_path(cls):
    name = getattr(cls, "__qualname__", getattr(cls, "__name__", str(cls)))
    module = module_name(getattr(cls, "__module__", None))
    return name if module in (None, "builtins") else "{}.{}".format(module, name)


def class_file(cls):
    return getattr(sys.modules.get(cls.__module__), "__file__", None)


def is_users_class(cls):
    path = class_file(cls)
    if path is None:  # a notebook's __main__ has no file
        code = getattr(getattr(cls, "forward", None), "__code__", None)
        path = getattr(code, "co_filename", None)
    return is_users(path)


# ------------------------------------------------------------------ values as text


def text_of(value, depth=0):
    """A value as text that is the same in every process; None where it has none."""
    if value is None or isinstance(value, (bool, int, float, complex, bytes)):
        if isinstance(value, enum.Enum):
            return "{}.{}".format(class_path(type(value)), value.name)
        out = repr(value)
        return out if len(out) <= TEXT else None
    if isinstance(value, str):
        return repr(str(value)) if len(value) <= TEXT else None
    if isinstance(value, enum.Enum):
        return "{}.{}".format(class_path(type(value)), value.name)
    if isinstance(value, (list, tuple, set, frozenset)):
        if len(value) > ITEMS or depth > 3:
            return None
        parts = [text_of(v, depth + 1) for v in value]
        if any(p is None for p in parts):
            return None
        if isinstance(value, (set, frozenset)):
            return "{" + ", ".join(sorted(parts)) + "}"
        # A list and a tuple of the same numbers do the same: padding=[1, 1] and (1, 1).
        return "(" + ", ".join(parts) + ")"
    if isinstance(value, dict):
        if len(value) > ITEMS or depth > 3:
            return None
        pairs = [(text_of(k, depth + 1), text_of(v, depth + 1)) for k, v in value.items()]
        if any(k is None or v is None for k, v in pairs):
            return None
        return "{" + ", ".join(k + ": " + v for k, v in sorted(pairs)) + "}"
    return _text_of_object(value, depth)


def _text_of_object(value, depth):
    if isinstance(value, functools.partial):
        inner = [text_of(v, depth + 1) for v in (value.func, value.args, value.keywords)]
        return None if None in inner else "partial({})".format(", ".join(inner))
    if isinstance(value, type):
        return class_path(value)
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
        return _text_of_function(value)
    kind = type(value)
    if kind.__module__ == "torch" and kind.__name__ in ("dtype", "memory_format", "layout", "Size"):
        return str(value)
    if kind.__name__ == "Tensor" and kind.__module__.startswith("torch"):
        return "tensor {} {}".format(str(value.dtype)[6:], list(value.shape))
    return None


def _text_of_function(value):
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    code = getattr(value, "__code__", None)
    if "<lambda>" in name:
        node = _function_node(value)
        if node is None:
            return None
        return "lambda " + Normal(value, None, None, {}).whole(node)
    module = module_name(getattr(value, "__module__", None) or "", getattr(code, "co_filename", None))
    # Builtins of torch belong to no module or to a private one: torch.relu is <built-in method relu of type>.
    if not module or module.startswith("torch._"):
        module = "torch"
    if code is not None and is_users(code.co_filename):
        node = _function_node(value)  # what it does says more than what it is called
        if node is not None:
            return "function " + Normal(value, None, None, {}).whole(node)
    return "{}.{}".format(module, name.rpartition(".")[2])


# ------------------------------------------------------------------ source

_trees = {}  # type: dict[str, object]


def parsed(path):
    if path not in _trees:
        tree = None
        with contextlib.suppress(OSError, SyntaxError, ValueError, RecursionError, UnicodeDecodeError):
            if is_user_file(path):
                with open(path, "rb") as f:
                    tree = ast.parse(f.read())
            elif is_users(path):
                tree = ast.parse("".join(linecache.getlines(path)))
        _trees[path] = tree
    return _trees[path]


def _function_node(function):
    """The statement or lambda that made a function, None where it is not found in the file of today."""
    function = inspect.unwrap(function)
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is None or not is_users(code.co_filename):
        return None
    tree = parsed(code.co_filename)
    found = []
    for node in [] if tree is None else ast.walk(tree):
        if isinstance(node, ast.Lambda):
            if code.co_name == "<lambda>" and node.lineno == code.co_firstlineno:
                found.append(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == code.co_name:
            lines = [node.lineno] + [d.lineno for d in node.decorator_list]
            if code.co_firstlineno in (min(lines), node.lineno):
                found.append(node)
    # Two lambdas of one line cannot be told apart.
    return found[0] if len(found) == 1 else None


def digest(text):
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


SILENT_ROOTS = ("logging", "logger", "log", "warnings", "LOGGER", "_logger")
_SKIPPED = ("ctx", "type_comment", "kind", "type_params", "returns", "annotation", "lineno", "col_offset")


def _says_only(node):
    """Whether a statement only tells somebody something, or checks what it is given: it computes nothing."""
    if isinstance(node, (ast.Pass, ast.Assert)):
        return True
    if not isinstance(node, ast.Expr):
        return False
    value = node.value
    if isinstance(value, ast.Constant):  # a docstring, or a text between statements
        return True
    if not isinstance(value, ast.Call):
        return False
    root, names = value.func, []
    while isinstance(root, ast.Attribute):
        names.append(root.attr)
        root = root.value
    if not isinstance(root, ast.Name):
        return False
    return root.id in SILENT_ROOTS or (root.id == "print" and not names) or names in (["log"], ["log_dict"])


class Normal(object):
    """Source without what computes nothing: names of locals, annotations, docstrings, comments, aliases of imports.

    Names that lead to functions of the user's become numbers, and so do attributes of ``self``; the lists `calls` and
    `attributes` say which they are. Names of everything else become what they stand for, constants their value.
    """

    def __init__(self, function, module, owner, functions):
        self.function = getattr(inspect.unwrap(function), "__func__", inspect.unwrap(function))
        self.module = module
        self.owner = owner
        self.functions = functions  # id of code -> name in the manifest; None where only a digest is wanted
        self.calls = []
        self.attributes = []
        self.reached = []  # functions to describe next
        self.locals = {}
        self.anonymous = False
        self.read = set()  # names of attributes of anything that it looks at
        self.self_name = None
        self.cells = {}
        with contextlib.suppress(Exception):
            found = inspect.getclosurevars(self.function)
            self.cells = dict(found.nonlocals)

    # -- whole functions

    def whole(self, node):
        """The digest of a function, by itself."""
        self.start(node)
        return digest(self.text(node.args) + self.body_text(node))

    def body_text(self, node):
        body = node.body if isinstance(node.body, list) else [node.body]
        return ";".join(self.text(s) for s in body if not _says_only(s))

    def start(self, node):
        arguments = node.args
        every = list(getattr(arguments, "posonlyargs", [])) + list(arguments.args) + list(arguments.kwonlyargs)
        every += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
        if self.module is not None and arguments.args and not isinstance(node, ast.Lambda):
            self.self_name = every[0].arg
        for a in every:
            self.local(a.arg)
        declared = set()
        for inner in ast.walk(node):
            if isinstance(inner, (ast.Global, ast.Nonlocal)):
                declared.update(inner.names)
        for inner in _in_order(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, (ast.Store, ast.Del)):
                if inner.id not in declared:
                    self.local(inner.id)
            elif isinstance(inner, ast.arg):
                self.local(inner.arg)
            elif isinstance(inner, ast.ExceptHandler) and inner.name:
                self.local(inner.name)
            elif isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and inner is not node:
                self.local(inner.name)
            elif isinstance(inner, (ast.Import, ast.ImportFrom)):
                for alias in inner.names:
                    self.local((alias.asname or alias.name).split(".")[0])

    def local(self, name):
        return self.locals.setdefault(name, "v{}".format(len(self.locals)))

    def shown(self, name):
        return "v" if self.anonymous else self.locals[name]

    def statements(self, node):
        """[digest, line] of each statement at any depth; of a compound one, its head."""
        out = []
        # One more name must not make every later line another one.
        self.anonymous = True
        for inner in _statements(node.body):
            head = inner
            if hasattr(inner, "body"):
                head = [getattr(inner, n) for n in ("test", "target", "iter", "items", "handlers") if hasattr(inner, n)]
            out.append([digest(type(inner).__name__ + self.text(head))[:8], inner.lineno])
        self.anonymous = False
        return out

    # -- nodes

    def text(self, node):
        if isinstance(node, list):
            return "[" + ",".join(self.text(n) for n in node if not (isinstance(n, ast.stmt) and _says_only(n))) + "]"
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, ast.Name):
            return self.name(node)
        if isinstance(node, ast.Attribute):
            return self.attribute(node)
        if isinstance(node, ast.Constant):
            return "const " + repr(node.value)
        if isinstance(node, ast.AnnAssign):
            if node.value is None:
                return ""
            return "Assign([{}],{})".format(self.text(node.target), self.text(node.value))
        if type(node).__name__ == "Index":  # Python 3.8
            return self.text(node.value)
        if type(node).__name__ == "ExtSlice":
            return "Tuple({})".format(self.text(node.dims))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super":
            return "Super()"
        if isinstance(node, ast.arg):
            self.local(node.arg)
            return self.shown(node.arg)
        if isinstance(node, ast.alias):
            return "alias " + node.name
        if isinstance(node, ast.keyword):
            return "keyword({},{})".format(node.arg, self.text(node.value))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return "Function({},{})".format(self.text(node.args), self.text(node.body))
        parts = []
        for field, value in ast.iter_fields(node):
            if field in _SKIPPED or value is None or value == []:
                continue
            if field == "name" and isinstance(value, str):
                value = self.locals.get(value, value)
            parts.append(self.text(value) if not isinstance(value, str) else value)
        return "{}({})".format(type(node).__name__, ",".join(parts))

    def name(self, node):
        if node.id in self.locals:
            return self.shown(node.id)
        found, value = self.lookup(node.id)
        return self.known(node.id, value) if found else "name " + node.id

    def lookup(self, name):
        if name in self.cells:
            return True, self.cells[name]
        space = getattr(self.function, "__globals__", {})
        if name in space:
            return True, space[name]
        return False, None

    def attribute(self, node):
        steps, root = [node.attr], node.value
        while isinstance(root, ast.Attribute):
            steps.insert(0, root.attr)
            root = root.value
        self.read.update(steps)
        if not isinstance(root, ast.Name):
            return "{}.{}".format(self.text(node.value), node.attr)
        if root.id == self.self_name:
            return ".".join([self.own(steps[0])] + steps[1:])
        if root.id in self.locals:
            return ".".join([self.shown(root.id)] + steps)
        found, value = self.lookup(root.id)
        if not found:
            return ".".join(["name " + root.id] + steps)
        for i, step in enumerate(steps):
            # Only modules and classes are looked into: asking an object may run a property.
            if not isinstance(value, (types.ModuleType, type)):
                return ".".join([self.known(root.id, value)] + steps[i:])
            try:
                value = getattr(value, step)
            except AttributeError:
                return ".".join(["name " + root.id] + steps)
        return self.known(".".join([root.id] + steps), value)

    def own(self, name):
        """An attribute of ``self``: a method of the user's is a function that is reached."""
        found = inspect.getattr_static(type(self.module), name, None)
        if isinstance(found, property):
            found = found.fget
        if isinstance(found, (staticmethod, classmethod)):
            found = found.__func__
        if isinstance(found, types.FunctionType) and name not in vars(self.module):
            inner = inspect.unwrap(found)
            if is_users(inner.__code__.co_filename):
                return self.call(found)
        if name not in self.attributes:
            self.attributes.append(name)
        return "self.a{}".format(self.attributes.index(name))

    def call(self, function):
        if self.functions is None or self.module is None:
            return "call"
        if function not in self.reached:
            self.reached.append(function)
        return "call{}".format(self.reached.index(function))

    def known(self, name, value):
        """A name by what it stands for."""
        if isinstance(value, types.ModuleType):
            return "module " + module_name(value.__name__)
        if isinstance(value, types.FunctionType) and is_users(inspect.unwrap(value).__code__.co_filename):
            if self.module is None:
                return "call"
            return self.call(value)
        text = text_of(value, 1)
        return "name " + name if text is None else "is " + text


def _in_order(node):
    """Nodes of a tree as they are written."""
    yield node
    for child in ast.iter_child_nodes(node):
        for inner in _in_order(child):
            yield inner


def _statements(body):
    for node in body:
        if _says_only(node):
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            inner = getattr(node, field, None)
            if isinstance(inner, list) and not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                for statement in _statements(inner):
                    yield statement
        for handler in getattr(node, "handlers", ()):
            for statement in _statements(handler.body):
                yield statement


class Sources(object):
    """The functions that ``forward`` of each class of the user's reaches."""

    def __init__(self, show):
        self.show = show
        self.functions = {}  # name -> facts
        self.names = {}  # (code, class) -> name
        self.classes = {}
        self.read = set()  # names of attributes that any of the functions looks at

    def of(self, module):
        """Name of the forward of a module's class; None where it is not the user's or its source is not found."""
        cls = own_class(module)
        if cls not in self.classes:
            self.classes[cls] = None
            function = inspect.getattr_static(cls, "forward", None)
            if isinstance(function, types.FunctionType):
                self.classes[cls] = self.function(function, module)
        return self.classes[cls]

    def function(self, function, module):
        inner = inspect.unwrap(function)
        code = getattr(inner, "__code__", None)
        if code is None or not is_users(code.co_filename) or len(self.functions) >= FUNCTIONS:
            return None
        key = (code, type(module))
        if key in self.names:
            return self.names[key]
        node = _function_node(function)
        if node is None:
            return None
        base = inner.__qualname__.replace("<locals>.", "")
        name, n = base, 1
        while name in self.functions:
            n += 1
            name = "{}#{}".format(base, n)
        self.names[key] = name
        facts = self.functions[name] = {}
        normal = Normal(function, module, None, self.names)
        normal.start(node)
        # A method's first argument is itself, whatever it is called; a plain function has none.
        if "." not in base or inspect.getattr_static(type(module), inner.__name__, None) is None:
            normal.self_name = None
        decorators = [normal.text(d) for d in node.decorator_list if _computes(d)]
        text = ";".join(decorators + [normal.text(node.args), normal.body_text(node)])
        facts["digest"] = digest(text)
        facts["attributes"] = normal.attributes
        facts["statements"] = normal.statements(node)
        facts["line"] = "{}:{}".format(self.show(code.co_filename), node.lineno)
        # Last: what is reached may reach this one again.
        self.read |= normal.read
        facts["calls"] = [self.function(f, module) for f in normal.reached]
        return name


def _computes(decorator):
    """Decorators that only tell a reader or a type checker something."""
    name = getattr(decorator, "attr", getattr(decorator, "id", None))
    return name not in ("override", "property", "staticmethod", "classmethod", "abstractmethod", "overload", "typing")


WRAPPERS = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod")


# ------------------------------------------------------------------ modules


def _base_names(model, torch):
    """Attributes that every module has, and every LightningModule: nobody's choice."""
    out = set(vars(torch.nn.Module())) | {"training"}
    for cls in type(model).__mro__:
        if cls.__name__ == "LightningModule" and cls.__module__.split(".")[0] in ("lightning", "pytorch_lightning"):
            bare = cls.__new__(cls)
            with contextlib.suppress(Exception):
                cls.__init__(bare)
            out |= set(vars(bare))
    return out


def changed_later(cls):
    """Names that methods other than the constructor assign: state of a run, not the make of a model."""
    out = set()
    for c in cls.__mro__:
        path = class_file(c)
        tree = parsed(path) if is_users(path) else None
        for node in [] if tree is None else ast.walk(tree):
            if not (isinstance(node, ast.ClassDef) and node.name == c.__name__):
                continue
            for method in node.body:
                if not isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)) or method.name == "__init__":
                    continue
                if method.name in ("configure_model", "setup", "build", "__post_init__", "_build", "build_model"):
                    continue
                for inner in ast.walk(method):
                    if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                        if isinstance(inner.value, ast.Name) and inner.value.id == "self":
                            out.add(inner.attr)
    return out


def _attributes(module, base, configs):
    """Name -> text of what a module holds besides parameters, buffers and modules."""
    out = {}
    for name, value in vars(module).items():
        if name in base or name.startswith("__"):
            continue
        text = text_of(value)
        if text is not None:
            out[name] = text
        elif isinstance(value, (list, tuple)) and value and all(hasattr(v, "named_modules") for v in value):
            out[name] = "(" + ", ".join(class_path(type(v)) for v in value[:ITEMS]) + ")"
        elif hasattr(value, "__dict__") and not hasattr(value, "named_modules") and not isinstance(value, type):
            # A configuration that many modules share is written down once.
            if id(value) not in configs and len(configs) < ITEMS:
                configs[id(value)] = value
                for key, inner in list(_settings(value))[: 4 * ITEMS]:
                    text = text_of(inner)
                    if text is not None:
                        out["{}.{}".format(name, key)] = text
    return out


def _settings(value):
    if isinstance(value, dict):
        return [(str(k), v) for k, v in value.items()]
    return [(k, v) for k, v in vars(value).items() if not k.startswith("_")]


def _hooks(module):
    out = []
    for attribute in ("_forward_pre_hooks", "_forward_hooks"):
        for hook in list((module.__dict__.get(attribute) or {}).values()):
            inner = getattr(hook, "func", hook)
            named = inner if hasattr(inner, "__qualname__") else type(inner)
            module_of = module_name(getattr(named, "__module__", None))
            out.append("{}.{}".format(module_of, getattr(named, "__qualname__", "?")))
    return out


def own_class(module):
    """The class of a module; that under the one which FSDP 2 puts on top of it."""
    mro = type(module).__mro__
    return mro[2] if len(mro) > 2 and mro[1].__name__ == "FSDPModule" else mro[0]


def is_wrapper(module):
    """Whether a module only stands around another one: a strategy's or a compiler's."""
    return any(name in module._modules for name in WRAPPERS)


def unwrapped_path(path):
    return ".".join(part for part in path.split(".") if part not in WRAPPERS)


def all_modules(model):
    try:
        return list(model.named_modules(remove_duplicate=False))
    except TypeError:  # torch < 1.9
        return list(model.named_modules())


def structure(model, torch, show=os.path.basename):
    """The facts of a model, as plain data.

    ``modules`` in order: path, class, its top-level package, what its repr shows, attributes, hooks, name of forward;
    ``functions``: by name, those that a forward of the user's reaches; ``buffers`` that are not saved; ``tied`` names.
    """
    base = _base_names(model, torch)
    sources = Sources(show)
    configs, later, rows = {}, {}, []
    modules = [(unwrapped_path(p), m) for p, m in all_modules(model)[:MODULES] if not is_wrapper(m)]
    for _, module in modules:  # all of them first: what a forward reads may belong to another module
        sources.of(module)
    for path, module in modules:
        cls = own_class(module)
        users = is_users_class(cls)
        forward = sources.of(module)
        attributes = _attributes(module, base, configs)
        if users:
            if cls not in later:
                later[cls] = changed_later(cls)
            # What no forward looks at, or what a run changes, makes no difference to what is computed.
            attributes = {
                k: v
                for k, v in attributes.items()
                if k.partition(".")[0] not in later[cls] and (forward is None or k.partition(".")[0] in sources.read)
            }
        try:
            extra = str(module.extra_repr())[:TEXT]
        except Exception:
            extra = ""
        row = {
            "path": path,
            "class": class_path(cls),
            "package": None if users else cls.__module__.partition(".")[0],
            "attributes": attributes,
        }
        if extra:
            row["extra_repr"] = extra
        hooks = _hooks(module)
        if hooks:
            row["hooks"] = hooks
        if forward is not None:
            row["forward"] = forward
        rows.append(row)
    return {
        "modules": rows,
        "functions": sources.functions,
        "buffers": unsaved_buffers(model, torch),
        "tied": _tied(model),
    }


def unsaved_buffers(model, torch):
    """Buffers that no file holds: form, and a few numbers of what is in them, since the constructor has to make it."""
    out = []
    for path, module in all_modules(model):
        for name in sorted(getattr(module, "_non_persistent_buffers_set", ())):
            value = module._buffers.get(name)
            if value is not None:
                key = unwrapped_path(path + "." + name if path else name)
                row = {"key": key, "dtype": str(value.dtype)[6:], "shape": [int(n) for n in value.shape]}
                values = None
                if len(out) < ITEMS:
                    with contextlib.suppress(Exception):
                        values = _numbers(value.detach(), torch)
                if values:
                    row["values"] = values
                out.append(row)
    return out


def _numbers(value, torch):
    """Mean, deviation, least and largest, and eight of the values; None of what has none or too many."""
    count = value.numel()
    if value.device.type == "meta" or not count or count > 1 << 22 or value.is_complex():
        return None
    flat = value.reshape(-1)
    picked = flat[torch.tensor([i * (count - 1) // 7 for i in range(8)], device=value.device)].to(torch.float64)
    flat = flat.to(torch.float32 if value.device.type == "mps" else torch.float64)
    whole = [flat.mean(), flat.std(unbiased=False), flat.min(), flat.max()]
    numbers = [float(v) for v in whole] + [float(v) for v in picked]
    return [float("{:.7g}".format(v)) if abs(v) < float("inf") else repr(v) for v in numbers]


def _tied(model):
    groups = {}
    for path, module in all_modules(model):
        for name, value in getattr(module, "_parameters", {}).items():
            if value is not None:
                groups.setdefault(id(value), []).append(unwrapped_path(path + "." + name if path else name))
    return [names for names in groups.values() if len(names) > 1]


# ------------------------------------------------------------------ arguments of the constructor


def init_facts(model):
    """Signature of the constructor, and the arguments as far as somebody kept them."""
    cls = type(model)
    out = {"signature": None, "arguments": {}}
    with contextlib.suppress(TypeError, ValueError):
        out["signature"] = str(inspect.signature(cls.__init__))[:2000]
    kept = getattr(model, "_hparams_initial", None) or getattr(model, "_hparams", None)
    if isinstance(kept, dict):
        for name, value in list(kept.items())[: 4 * ITEMS]:
            text = text_of(value)
            out["arguments"][str(name)] = "<{}>".format(class_path(type(value))) if text is None else text
    return out


def class_digests(model):
    """Source digest of each class of the user's in a model: of the whole class, as it stands in its file."""
    out = {}
    for _, module in all_modules(model):
        for cls in type(module).__mro__:
            name = class_path(cls)
            if name in out or not is_users_class(cls):
                continue
            tree = parsed(class_file(cls))
            nodes = [] if tree is None else [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
            found = [n for n in nodes if n.name == cls.__name__]
            if len(found) == 1:
                normal = Normal(getattr(cls, "__init__", object.__init__), None, None, None)
                out[name] = digest(normal.text(found[0].body))
    return out
