"""``relight convert``: one layout into another, with a proof; what is read is never changed."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping

from relight.core.checkpoint import Checkpoint, Layout
from relight.core.conversion import Conversion, Output
from relight.core.errors import ConversionError, RepairError
from relight.core.objects import DictNode, ListNode, ObjectPath, Value, mapping_get, mapping_has, mapping_pairs
from relight.core.safety import Safety
from relight.facts.safety import safety
from relight.reader import open_checkpoint
from relight.repair import safetensors_out, sidecar, torch_out
from relight.repair.copying import Progress, refuse_existing
from relight.repair.dcp_material import of_dcp
from relight.repair.deepspeed_material import of_deepspeed
from relight.repair.material import Material, described, of_file
from relight.repair.proving import need_intact
from relight.repair.salvaging import salvaged, salvaged_folder
from relight.repair.sharded_material import of_shards
from relight.repair.stored import Files, Stored

_WORDS = {
    Layout.TORCH_ZIP: "an archive of torch.save",
    Layout.TORCH_LEGACY: "the layout of torch before 1.6",
    Layout.TORCH_TAR: "the layout of torch before 0.1.10",
    Layout.SAFETENSORS: "safetensors",
    Layout.SHARDED: "a folder of shards",
    Layout.DCP: "a folder of torch.distributed.checkpoint",
    Layout.DEEPSPEED: "a folder of DeepSpeed",
}


def convert(
    path: str,
    output: str,
    *,
    to: str | None = None,
    rest: bool = True,
    only: str | None = None,
    whole: bool = False,
    salvage: bool = False,
    lightning: tuple[str, Mapping[str, object]] | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Write what a checkpoint holds in another layout, and prove it.

    Args:
        path: What is read.
        output: The new file; nothing may be there.
        to: ``torch`` or ``safetensors``; None goes by the name of the new file.
        rest: Whether what safetensors cannot hold is written beside it.
        only: ``weights`` writes the state_dict alone.
        whole: Whether the proof compares bytes also where a checksum is recorded.
        salvage: Whether a damaged file is converted as far as it is intact.
        lightning: (version, hyper_parameters): a state_dict becomes a checkpoint of that version of Lightning.
        progress: Called with the number of bytes written since the last call.

    Returns:
        What was written.

    Raises:
        SourceError: The path cannot be opened.
        ConversionError: It is damaged or incomplete, cannot be written so, or the proof fails. Then nothing is written.
    """
    try:
        return _converted(
            path,
            output,
            to=to,
            rest=rest,
            only=only,
            whole=whole,
            salvage=salvage,
            lightning=lightning,
            progress=progress,
        )
    except RepairError as error:
        raise ConversionError(error.path or path, error.reason) from None


def _converted(
    path: str,
    output: str,
    *,
    to: str | None,
    rest: bool,
    only: str | None,
    whole: bool,
    salvage: bool,
    lightning: tuple[str, Mapping[str, object]] | None,
    progress: Progress | None,
) -> Conversion:
    to = to or ("safetensors" if output.endswith(".safetensors") else "torch")
    refuse_existing(output, path)
    if to == "safetensors" and rest:
        for other in safetensors_out.beside(output):
            refuse_existing(other, path)
    files = Files()
    collecting = gc.isenabled()
    gc.disable()
    try:
        checkpoint = open_checkpoint(path)
        if salvage:
            material = (salvaged_folder if os.path.isdir(path) else salvaged)(path, files, checkpoint)
        else:
            material = read(path, files, checkpoint)
        if not salvage or checkpoint.layout is Layout.DEEPSPEED:
            need_intact(files, material.storages.values(), path)
        if only == "weights":
            weights_only(material)
        if lightning is not None:
            as_lightning(material, *lightning)
        if to == "safetensors":
            return _to_safetensors(material, output, rest=rest and only is None, whole=whole, progress=progress)
        if safety(checkpoint) is Safety.DANGEROUS and only is None and lightning is None:
            raise RepairError(
                path, "unpickling it would run code, and a copy would as well; --only weights writes its tensors alone"
            )
        return _to_torch(material, output, whole=whole, progress=progress)
    finally:
        files.close()
        if collecting:
            gc.enable()


def read(path: str, files: Files, checkpoint: Checkpoint) -> Material:
    """What a checkpoint of any layout is made of.

    Raises:
        RepairError: It is damaged, incomplete, or of a layout that is not converted.
    """
    if os.path.isdir(path):
        return _of_folder(path, files, checkpoint)
    if checkpoint.layout is Layout.SAFETENSORS:
        document = safetensors_out.read_sidecar(path)
        if document is not None:
            return _with_rest(path, files, checkpoint, document)
    return of_file(path, files, checkpoint)


def _of_folder(path: str, files: Files, checkpoint: Checkpoint) -> Material:
    if checkpoint.layout is Layout.SHARDED:
        return of_shards(path, files, checkpoint)
    if checkpoint.layout is Layout.DCP:
        return of_dcp(path, files, checkpoint)
    if checkpoint.layout is Layout.DEEPSPEED:
        return of_deepspeed(path, files, checkpoint)
    raise RepairError(path, f"it is {checkpoint.problems[0].message}, and none of them a checkpoint's parts")


def weights_only(material: Material) -> None:
    """Leave only the state_dict of a tree.

    Raises:
        RepairError: There is none.
    """
    if material.state_dict is None:
        raise RepairError(material.origin, "it has no state_dict")
    value: Value = material.root
    for step in material.state_dict:
        value = mapping_get(value, str(step))
    if mapping_pairs(value) is None:
        raise RepairError(material.origin, "its tensors are in no state_dict: it holds a whole module")
    if value is material.root:
        return
    gone = [str(k) for k, _ in mapping_pairs(material.root) or () if k != material.state_dict[0]]
    if gone:
        material.left_out.append((", ".join(gone), "not asked for"))
    material.root = value
    material.state_dict = ObjectPath()


def as_lightning(material: Material, version: str, hyper_parameters: Mapping[str, object]) -> None:
    """Make of a state_dict what load_from_checkpoint reads: it is the state after no training.

    Args:
        material: What is written; where it is a checkpoint of Lightning already, it stays what it is.
        version: Of Lightning.
        hyper_parameters: Arguments of the constructor, plain data.

    Raises:
        RepairError: It has no state_dict, or an argument is no plain data.
    """
    root = material.root
    if material.state_dict == ("state_dict",) and mapping_has(root, "pytorch-lightning_version"):
        if hyper_parameters:
            raise RepairError(material.origin, "it has hyper_parameters already: it is a checkpoint of Lightning")
        return
    weights_only(material)
    pairs: list[tuple[Value, Value]] = [
        ("epoch", 0),
        ("global_step", 0),
        ("pytorch-lightning_version", version),
        ("state_dict", material.root),
    ]
    if hyper_parameters:
        try:
            given = _node(dict(hyper_parameters))
        except TypeError as error:
            raise RepairError(material.origin, f"an argument is {error}, which is no plain data") from None
        pairs += [("hparams_name", "kwargs"), ("hyper_parameters", given)]
    material.root = DictNode(pairs)
    material.state_dict = ObjectPath(("state_dict",))
    material.changes.append(("state_dict", f"-> a checkpoint of Lightning {version}, at epoch 0 and step 0"))


def _node(value: object) -> Value:
    """Plain data as a tree."""
    if isinstance(value, dict):
        return DictNode([(_node(k), _node(v)) for k, v in value.items()])
    if isinstance(value, list):
        return ListNode([_node(v) for v in value])
    if isinstance(value, tuple):
        return tuple(_node(v) for v in value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__}")


def _with_rest(path: str, files: Files, checkpoint: Checkpoint, document: Mapping[str, object]) -> Material:
    """A safetensors file together with what relight wrote beside it."""
    text, tensors = safetensors_out.beside(path)
    material = of_file(path, files, checkpoint)
    others: Material | None = None
    if document.get("rest") is not None:
        if not os.path.exists(tensors):
            raise RepairError(path, f"nothing is written, it is not whole: {os.path.basename(tensors)} is not there")
        others = of_file(tensors, files)
    try:
        root = sidecar.from_json(document.get("root"))
        places = document["storages"]
        storages: dict[str, Stored] = {}
        for key, where, name in places if isinstance(places, list) else ():
            holder = material if where == "weights" else others
            if holder is None or name not in holder.storages:
                raise RepairError(path, f"{os.path.basename(text)} wants the tensor {name}, and it is not there")
            storages[str(key)] = holder.storages[name]
    except (KeyError, TypeError, ValueError) as error:
        raise RepairError(text, f"it cannot be used: {error}") from None
    material.root, material.storages = root, storages
    return described(material)


def _to_torch(material: Material, output: str, *, whole: bool, progress: Progress | None) -> Conversion:
    new, checks = torch_out.write_torch(material, output, progress, whole=whole)
    changes = [*_layout_words(material, Layout.TORCH_ZIP), *material.changes]
    changes = changes or [("layout", "as it was; the pickle is written anew")]
    made = Output(path=output, what="checkpoint", nbytes=os.path.getsize(output))
    return _conversion(material, (made,), changes, len(new.tensors), checks, material.left_out)


def _to_safetensors(
    material: Material, output: str, *, rest: bool, whole: bool, progress: Progress | None
) -> Conversion:
    layout = safetensors_out.planned(material, output, rest=rest)
    written, checks = safetensors_out.write(material, layout, output, progress, whole=whole)
    # What it takes to unpickle a file says nothing about one that has no pickle.
    changes = [*_layout_words(material, Layout.SAFETENSORS), *(c for c in material.changes if c[0] != "pickle")]
    left_out = list(layout.left_out)
    if not rest:
        named = [str(k) for k, _ in mapping_pairs(material.root) or ()]
        if material.state_dict:
            named = [n for n in named if n != material.state_dict[0]]
            if named:
                left_out.append((", ".join(named), "not asked for"))
    outputs = tuple(Output(path=p, what=what, nbytes=os.path.getsize(p)) for p, what in written)
    return _conversion(material, outputs, changes, len(layout.weights.entries), checks, left_out)


def _layout_words(material: Material, becomes: Layout) -> list[tuple[str, str]]:
    return [] if material.layout is becomes else [("layout", f"{_WORDS[material.layout]} -> {_WORDS[becomes]}")]


def _conversion(
    material: Material,
    outputs: tuple[Output, ...],
    changes: list[tuple[str, str]],
    tensors: int,
    checks: list[tuple[str, bool, str]],
    left_out: list[tuple[str, str]],
) -> Conversion:
    return Conversion(
        source=material.origin,
        layout=material.layout.value,
        nbytes=material.nbytes,
        outputs=outputs,
        changes=tuple(changes),
        tensors=tensors,
        left_out=tuple(left_out),
        checks=tuple(checks),
    )
