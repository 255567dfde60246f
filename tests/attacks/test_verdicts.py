"""What files that mean harm are called, and that honest ones which look like them are not."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from reader_files import HOOKS, archive, checkpoint, name, number, numbers, pid, state_dict, tensor, text

from relight.core.checkpoint import Checkpoint
from relight.core.objects import mapping_get
from relight.core.safety import Safety
from relight.facts.safety import dangers, is_dangerous, role, safety
from relight.reader import open_checkpoint
from relight.reader.detect import read
from relight.reader.source import MemorySource
from relight.rulekit import File, Obj, Ref
from relight.testing.recipes import contents

CORPUS = Path(__file__).parents[1] / "corpus" / "reader"
SYSTEM = name("posix", "system")
SHELL = SYSTEM + text("true") + b"\x85R"
EVIL = b"\x80\x02" + SHELL + b"."
GOOD = state_dict(w=tensor())


def opened(data: bytes) -> Checkpoint:
    return read(MemorySource(data))


def verdict(value: bytes) -> Safety:
    """Of a file that holds a value beside an honest tensor, which must come out in any case."""
    found = opened(checkpoint(state_dict(w=tensor(), x=value)))
    assert "w" in {t.key for t in found.tensors}
    return safety(found)


def short(raw: bytes) -> bytes:
    return b"\x8c" + bytes([len(raw)]) + raw


DANGEROUS = {
    "a call": SHELL,
    "a name, never called": SYSTEM,
    "a result that is thrown away": SHELL + b"0N",
    "a result in the memo only": SHELL + b"r\x99\x00\x00\x000N",
    "INST": b"(" + text("true") + b"iposix\nsystem\n",
    "OBJ": b"(" + SYSTEM + text("true") + b"o",
    "NEWOBJ": SYSTEM + b")\x81",
    "NEWOBJ_EX": SYSTEM + b")}\x92",
    "a name from the stack": short(b"posix") + short(b"system") + b"\x93",
    "names as byte strings": b"U\x05posixU\x06system\x93",
    "a name that the file computes": name("builtins", "str") + text("posix") + b"\x85R" + text("system") + b"\x93",
    "a callee that the file computes": name("my.lib", "f") + b")R)R",
    "an extension code": b"\x82\x01",
    "a name of Python 2": name("commands", "getoutput"),
    "a builtin of Python 2": name("__builtin__", "execfile"),
    "a dotted way to os": short(b"random") + short(b"_os.system") + b"\x93",
    "a dotted way through torch": short(b"torch.serialization") + short(b"os.system") + b"\x93",
    "globals of a function": short(b"torch") + short(b"load.__globals__") + b"\x93",
    "__setstate__ set by BUILD": name("my.lib", "C") + b")\x81}" + text("__setstate__") + SYSTEM + b"sb" + text("true") + b"b",
    "a class changed by BUILD": name("my.lib", "C") + b"}" + text("f") + name("my.lib", "g") + b"sb",
    "__class__ set by BUILD": name("argparse", "Namespace") + b")\x81}" + text("__class__") + name("my.lib", "C") + b"sb",
    "a defaultdict that calls": name("collections", "defaultdict") + name("my.lib", "f") + b"\x85R",
    "hooks of a tensor": tensor(hooks=HOOKS + number(1) + name("my.lib", "f") + b"s"),
    "hooks of a module": name("torch.nn.modules.linear", "Linear") + b")\x81}" + text("_forward_hooks") + HOOKS
    + number(1) + name("my.lib", "f") + b"ssb",
    "items put into a tensor": tensor(after=number(0) + number(9) + b"s"),
    "a function as a storage class": tensor(storage=pid(kind=name("my.lib", "f"))),
    "a subclass rebuilt by anything": name("torch._tensor", "_rebuild_from_type_v2")
    + b"(" + name("my.lib", "f") + name("torch", "Tensor") + b")}tR",
    "bytes decoded by anything": name("_codecs", "encode") + text("x") + text("rot13") + b"\x86R",
    "getattr on a module's function": name("builtins", "getattr") + name("my.lib", "f") + text("__globals__") + b"\x86R",
    "getattr, never called": name("builtins", "getattr"),
    "type with three arguments": name("builtins", "type") + text("X") + b")}\x87R",
    "a pickle in a byte string": b"B" + struct.pack("<I", len(EVIL)) + EVIL,
    "a pickle in the bytes of Python 3": name("_codecs", "encode") + text(EVIL.decode("latin-1")) + text("latin1") + b"\x86R",
    "a file of torch in a byte string": name("torch.storage", "_load_from_bytes") + b"B"
    + struct.pack("<I", len(checkpoint(EVIL))) + checkpoint(EVIL) + b"\x85R",
}  # fmt: skip


@pytest.mark.parametrize("what", DANGEROUS)
def test_dangerous(what: str) -> None:
    assert verdict(DANGEROUS[what]) is Safety.DANGEROUS


UNKNOWN = {
    "a class of the user's": name("my.lib", "C") + b")\x81}" + text("x") + number(1) + b"sb",
    "a function of the user's, called": name("my.lib", "f") + b")R",
    "functools.partial": name("functools", "partial") + name("torch.optim.adam", "Adam") + b"\x85R",
    "a module of torch": name("torch.nn.modules.loss", "MSELoss") + b")\x81}" + text("reduction") + text("mean") + b"sb",
    "a method of a class": name("builtins", "getattr") + name("my.lib", "C") + text("build") + b"\x86R",
    "a number where text belongs": name("builtins", "bytearray") + number(2**40) + b"\x85R",
    "print": name("builtins", "print") + text("x") + b"\x85R",
}  # fmt: skip


@pytest.mark.parametrize("what", UNKNOWN)
def test_unknown(what: str) -> None:
    assert verdict(UNKNOWN[what]) is Safety.UNKNOWN


OK = {
    "words as data": text("os.system"),
    "a Namespace": name("argparse", "Namespace") + b")\x81}" + text("lr") + number(1) + b"sb",
    "an OrderedDict with state": HOOKS + b"}" + text("_metadata") + b"}sb",
    "a defaultdict of lists": name("collections", "defaultdict") + name("builtins", "list") + b"\x85R",
    "a path": name("pathlib", "PosixPath") + text("/tmp") + b"\x85R",
    "a set": name("builtins", "set") + b"]\x85R",
    "a type": name("torch", "float32"),
    "a device": name("torch", "device") + text("cuda") + number(0) + b"\x86R",
    "a time": name("datetime", "timedelta") + numbers(1, 2, 3) + b"R",
    "the type of None": name("builtins", "type") + b"N\x85R",
    "bytes": name("_codecs", "encode") + text("\x80\x01") + text("latin1") + b"\x86R",
    "a number of numpy": name("numpy._core.multiarray", "scalar") + name("numpy", "dtype") + text("f8") + b"\x89\x88\x87R"
    + b"(" + number(3) + text("<") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb" + text("x" * 8) + b"\x86R",
}  # fmt: skip


@pytest.mark.parametrize("what", OK)
def test_ok(what: str) -> None:
    assert verdict(OK[what]) is Safety.OK


class TestContents:
    """Values that are plain data to the pickle, and that Lightning acts on."""

    def test_hparams_type_is_called(self) -> None:
        assert safety(opened(contents(File(extra={"hparams_type": Ref("my.lib.f")})))) is Safety.DANGEROUS
        honest = File(extra={"hparams_type": Ref("omegaconf.dictconfig.DictConfig")})
        assert safety(opened(contents(honest))) is Safety.OK

    def test_the_instantiator_is_imported(self) -> None:
        assert safety(opened(contents(File(hparams={"_instantiator": "os.system"})))) is Safety.DANGEROUS
        honest = File(hparams={"_instantiator": "lightning.pytorch.cli.instantiate_module"})
        assert safety(opened(contents(honest))) is Safety.OK

    @pytest.mark.parametrize("key", ["_target_", "class_path"])
    def test_targets(self, key: str) -> None:
        assert safety(opened(contents(File(hparams={"a": [{key: "os.system"}]})))) is Safety.DANGEROUS
        assert safety(opened(contents(File(hparams={"a": [{key: "torch.nn.Linear"}]})))) is Safety.OK


class TestStreams:
    """Every stream that some loader could follow."""

    def test_two_pickles_of_one_name(self) -> None:
        two = archive(
            {"data.pkl": GOOD, "byteorder": b"little", "data.pk2": EVIL, "data/0": b"\0" * 16, "version": b"3"}
        )
        assert safety(opened(two.replace(b"data.pk2", b"data.pkl"))) is Safety.DANGEROUS

    def test_another_case(self) -> None:
        assert safety(opened(checkpoint(GOOD, more={"DATA.PKL": EVIL}))) is Safety.DANGEROUS
        data = archive({"Data.pkl": GOOD, "data/0": b"\0" * 16, "version": b"3"})
        assert safety(opened(data)) is Safety.MALFORMED  # torch reads it, others do not find it

    def test_other_pickles(self) -> None:
        assert safety(opened(checkpoint(GOOD, more={"constants.pkl": EVIL}))) is Safety.DANGEROUS
        assert safety(opened(checkpoint(GOOD, more={"extra/x.pkl": EVIL}))) is Safety.DANGEROUS

    def test_hidden_between_records(self) -> None:
        whole = checkpoint(GOOD, more={"evil.pkl": EVIL})
        assert safety(opened(whole)) is Safety.DANGEROUS
        at = whole.index(b"PK\x01\x02")
        lines = whole[at:].split(b"PK\x01\x02")
        kept = b"".join(b"PK\x01\x02" + line for line in lines[1:] if b"evil" not in line)
        end = whole[-22:]
        size = sum(4 + len(line) for line in lines[1:] if b"evil" not in line) - 22
        kept = kept.partition(b"PK\x05\x06")[0]
        size = len(kept)
        fields = struct.unpack("<4s4H2IH", end)
        end = struct.pack("<4s4H2IH", *fields[:3], fields[3] - 1, fields[4] - 1, size, fields[6], 0)
        found = opened(whole[:at] + kept + end)
        assert any("belong to no record" in p.message for p in found.problems)
        assert safety(found) is Safety.DANGEROUS

    def test_before_an_error(self) -> None:
        assert safety(opened(checkpoint(b"\x80\x02" + SHELL + b"\xff"))) is Safety.DANGEROUS
        assert safety(opened(EVIL[:-1])) is Safety.DANGEROUS

    def test_behind_the_end(self) -> None:
        assert safety(opened(checkpoint(GOOD + EVIL))) is Safety.DANGEROUS
        assert safety(opened(contents(File(legacy=True)) + EVIL)) is Safety.DANGEROUS

    @pytest.mark.parametrize("step", [1, 2, 4])
    def test_the_small_pickles_of_the_legacy_layout(self, step: int) -> None:
        magic, rest = (
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
            [b"\x80\x02M\xe9\x03.", b"\x80\x02}.", GOOD, b"\x80\x02]."],
        )
        rest[step - 1] = rest[step - 1][:-1] + SHELL + b"0."
        assert safety(opened(magic + b"".join(rest))) is Safety.DANGEROUS

    def test_an_array_of_objects(self) -> None:
        header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + EVIL
        assert safety(opened(data)) is Safety.DANGEROUS

    def test_bytes_that_are_no_pickle_accuse_nobody(self) -> None:
        noise = b"B" + struct.pack("<I", 6) + b"\x80\x02\x82\x07\x93R"
        assert verdict(noise) is Safety.OK


class TestShape:
    """An answer of ok needs something that can be a checkpoint."""

    @pytest.mark.parametrize("data", [b"\x80\x02K\x05.", b"\x80\x02N.", b"\x80\x02}" + text("state_dict") + b"]s."])
    def test_no_checkpoint(self, data: bytes) -> None:
        assert safety(opened(checkpoint(data))) in (Safety.MALFORMED, Safety.UNKNOWN)

    def test_a_persistent_id_of_another_kind(self) -> None:
        assert safety(opened(checkpoint(state_dict(w=tensor(), x=b"]Q")))) is Safety.MALFORMED

    def test_an_unreadable_file_is_not_ok(self) -> None:
        for data in (b"", b"\0" * 100, b"PK\x03\x04", b"hello", b"\x80", GOOD[:20]):
            assert safety(opened(data)) in (Safety.MALFORMED, Safety.UNKNOWN)

    def test_code_in_other_formats_is_never_ok(self) -> None:
        assert safety(open_checkpoint(CORPUS / "script.pt")) is Safety.UNKNOWN
        assert safety(open_checkpoint(CORPUS / "export.pt2")) is Safety.UNKNOWN


def test_honest_files_are_ok() -> None:
    for file in ("state_dict.pt", "legacy.pt"):
        assert safety(open_checkpoint(CORPUS / file)) is Safety.OK
    assert safety(opened(contents(File(hparams={"lr": 0.1, "ns": Obj("argparse.Namespace", {"x": 1})})))) is Safety.OK


def test_lists_do_not_contradict_each_other() -> None:
    assert role("torch._utils._rebuild_tensor_v2") == "rebuild"
    assert not is_dangerous("types.SimpleNamespace")
    assert is_dangerous("types.FunctionType")
    assert not is_dangerous("torch.nn.modules.loss.MSELoss")
    assert not is_dangerous("my.os_utils.Config")
    for honest in ("project.system.Lit", "my.io.readers.Reader", "app.commands.run.Config", "my.test.Net", "code_x.Y",
                   "torchvision.io.image.ImageReadMode", "torch.optim.adam.Adam", "models.open.Model"):  # fmt: skip
        assert not is_dangerous(honest), honest
    assert is_dangerous("pathlib.PosixPath.touch")
    assert is_dangerous("lightning.pytorch.core.module.LightningModule.load_from_checkpoint")
    assert is_dangerous("numpy.load")
    assert is_dangerous("torch.hub.load")


def test_what_is_dangerous_is_said_in_words() -> None:
    found = opened(checkpoint(state_dict(w=tensor(), x=SHELL)))
    assert list(dangers(found)) == ["names posix.system"]
    assert mapping_get(mapping_get(found.root, "state_dict"), "x") is not None
