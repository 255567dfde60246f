"""The files of a checkpoint that is a folder: which there are, and what each of them says by itself."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from relight.core.checkpoint import Checkpoint, Layout, Pickled, Problem, ProblemKind, StorageEntry, TensorEntry
from relight.core.errors import SourceError
from relight.reader.limits import Limits
from relight.reader.source import ByteSource, LocalSource

ReadFile: TypeAlias = Callable[[ByteSource], Checkpoint]
_DEPTH = 2


@dataclass(slots=True)
class Folder:
    """A folder that is being read.

    Attributes:
        path: Where it is.
        limits: What reading may cost.
        files: Sizes of its regular files by relative path, with slashes.
        problems: What is wrong.
        pickles: Streams of the files that were read.
        storages: Storages of the files that were read; their ids start with the file's name.
        bytes_read: How much was read.
    """

    path: str
    limits: Limits
    read_file: ReadFile
    files: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    pickles: list[Pickled] = field(default_factory=list)
    storages: dict[str, StorageEntry] = field(default_factory=dict)
    bytes_read: int = 0

    def problem(self, kind: ProblemKind, message: str, record: str | None = None, *, fatal: bool = True) -> None:
        """Add a problem with one of the files, or with the folder."""
        if len(self.problems) < 200:
            self.problems.append(Problem(kind=kind, message=message, record=record, fatal=fatal))

    def scan(self) -> None:
        """Find the files, without following links out of the folder.

        Raises:
            SourceError: The folder itself cannot be listed.
        """
        try:
            os.listdir(self.path)
        except OSError as error:
            raise SourceError(self.path, error.strerror or str(error)) from None
        folders = [("", 0)]
        while folders:
            folder, depth = folders.pop()
            try:
                names = sorted(os.listdir(os.path.join(self.path, folder)))
            except OSError:
                continue
            for name in names:
                relative = f"{folder}/{name}" if folder else name
                if len(self.files) >= self.limits.shards:
                    message = f"the folder has more than {self.limits.shards:,} files"
                    self.problems.append(Problem(kind=ProblemKind.LIMIT, message=message, fatal=True, what="shards"))
                    return
                status = self._status(relative)
                if status is None:
                    continue
                if stat.S_ISDIR(status.st_mode) and depth < _DEPTH:
                    folders.append((relative, depth + 1))
                elif stat.S_ISREG(status.st_mode):
                    self.files[relative] = status.st_size

    def _status(self, relative: str) -> os.stat_result | None:
        full = os.path.join(self.path, relative)
        try:
            status = os.lstat(full)
            if not stat.S_ISLNK(status.st_mode):
                return status
            target = os.path.realpath(full)
            inside = os.path.realpath(self.path)
            # The Hugging Face cache keeps contents in `blobs`, beside the `snapshots` that link to them.
            hub = os.path.dirname(target) == os.path.join(os.path.dirname(os.path.dirname(inside)), "blobs")
            if os.path.commonpath((inside, target)) != inside and not hub:
                self.problem(ProblemKind.ARCHIVE_MALFORMED, "the file is a link that leaves the folder", relative)
                return None
            status = os.stat(full)
            return status if stat.S_ISREG(status.st_mode) else None
        except (OSError, ValueError):
            return None

    def bytes_of(self, relative: str, limit: int) -> bytes:
        """The start of one file."""
        try:
            source = LocalSource(os.path.join(self.path, relative))
        except SourceError:
            return b""
        try:
            data = source.read(0, limit)
        finally:
            source.close()
        self.bytes_read += source.bytes_read
        return data

    def read(self, relative: str, *, quiet: bool = False) -> Checkpoint | None:
        """Read one file as a checkpoint of its own.

        Args:
            relative: Which.
            quiet: Whether problems of the file are left out: it may be no checkpoint at all.
        """
        try:
            source = LocalSource(os.path.join(self.path, relative))
        except SourceError as error:
            self.problem(ProblemKind.RECORD_MISSING, error.reason, relative)
            return None
        try:
            checkpoint = self.read_file(source)
        finally:
            source.close()
        self.bytes_read += source.bytes_read
        self.pickles += [
            replace(p, where=f"{relative}: {p.where}" if p.where else relative) for p in checkpoint.pickles
        ]
        if not quiet:
            for p in checkpoint.problems:
                if p.kind is not ProblemKind.COMPRESSED_RECORDS:
                    message = f"{p.record}: {p.message}" if p.record else p.message
                    kind = ProblemKind.RECORD_SHORT if p.kind is ProblemKind.TRUNCATED else p.kind
                    self.problems.append(replace(p, kind=kind, message=message, record=relative))
        return checkpoint

    def owned(self, relative: str, t: TensorEntry, checkpoint: Checkpoint) -> TensorEntry:
        """A tensor of one file as a tensor of the folder: storages of two files may have the same name."""
        if t.storage_id is None:
            return t
        name = f"{relative}:{t.storage_id}"
        if name not in self.storages and t.storage_id in checkpoint.storages:
            self.storages[name] = checkpoint.storages[t.storage_id]._replace(id=name)
        return t._replace(storage_id=name)

    def rest(self, done: set[str]) -> None:
        """Look into the files that were not read: what they name counts, since some program will load them."""
        for relative in self.files:
            if relative in done or relative.endswith((".json", ".txt", ".md", ".py", ".yaml", ".yml", ".distcp")):
                continue
            self.read(relative, quiet=True)

    def checkpoint(self, layout: Layout, what: str, main: Checkpoint | None = None) -> Checkpoint:
        """What was read, before the tensors are put in.

        Args:
            layout: How it is stored.
            what: Finer identity, for the problem that says that the loaders of single files cannot read it.
            main: The file that holds what is no tensor.
        """
        # load_from_checkpoint and torch.load read single files.
        message = f"a folder with {len(self.files)} file{'' if len(self.files) == 1 else 's'}"
        unsupported = Problem(kind=ProblemKind.UNSUPPORTED, message=message, fatal=True, what=what)
        problems = self.problems
        if layout is Layout.DIRECTORY:  # nothing of it is a checkpoint that a stray link could damage
            problems = [replace(p, fatal=False) for p in problems]
        return Checkpoint(
            origin=self.path,
            nbytes=sum(self.files.values()),
            layout=layout,
            storages=self.storages,
            root=None if main is None else main.root,
            globals=() if main is None else main.globals,
            stream=None if main is None else main.stream,
            pickles=tuple(self.pickles),
            files=tuple(self.files),
            problems=(unsupported, *problems),
            bytes_read=self.bytes_read,
        )


def plain_name(name: object) -> bool:
    """Whether a name that a file gives can only be a file of the same folder."""
    return (
        isinstance(name, str)
        and bool(name)
        and len(name) <= 255
        and not name.startswith(".")
        and not any(c in name for c in "/\\:\0")
    )
