"""What a pickle holds beside data, told by the key that holds it and without running any of it (no torch)."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_DEEPEST = 6  # levels of keys that are searched
_LEGACY_HEADERS = 3  # torch's format before 2020: magic number, protocol and system, then the content, a pickle each
# Of these modules only functions that build tensors and numbers are stored.
_DATA = ("torch", "numpy", "_codecs", "collections", "builtins")


class Stub:
    """Stands for an object of a class that is not loaded. Whatever is done to it does nothing."""

    class_name = "unknown"

    def __new__(cls, *args: object, **options: object) -> Stub:
        return object.__new__(cls)

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        """Takes an item of a list's subclass."""

    def extend(self, items: Iterable[object]) -> None:
        """Takes the items of a list's subclass."""


def outline_of(path: Path) -> object:
    """The content of a file of torch.save: dicts, lists and plain values, with a Stub for each object.

    None where it cannot be had.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                return _Outliner(io.BytesIO(archive.read(name))).load()
        with path.open("rb") as file:
            for _ in range(_LEGACY_HEADERS):
                _Outliner(file).load()
            return _Outliner(file).load()
    except Exception:  # noqa: BLE001 - a damaged pickle raises anything, and only the words of a refusal depend on it
        return None


def objects_in(content: object, path: str = "") -> Iterator[tuple[str, str]]:
    """The path of keys, and the class, of each object in an outline that is neither data nor a tensor."""
    if isinstance(content, Stub):
        if content.class_name.partition(".")[0] not in _DATA or content.class_name.startswith("torch.nn.modules"):
            yield path, content.class_name
    elif path.count(".") < _DEEPEST and isinstance(content, (Mapping, list, tuple)):
        items = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in items:
            yield from objects_in(value, f"{path}.{key}" if path else str(key))


class _Outliner(pickle.Unpickler):
    """Unpickles the shape of a file. No class is imported and no function called."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        return type("Stub", (Stub,), {"class_name": f"{module}.{name}"})

    def persistent_load(self, pid: object) -> object:
        """Storages are passed over. The old format has the class of a module here, with its source."""
        return pid[1] if isinstance(pid, tuple) and pid[:1] == ("module",) else None
