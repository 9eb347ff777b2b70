"""Files that would run code, write files or never end when `torch.export.load` reads them."""

import json
import pickle
import shutil
import sys

import pytest
import torch
from tools.foreign_models import write_program
from tools.hostile_programs import (
    Hidden,
    Malicious,
    add_products,
    change_archive,
    change_program,
    read_archive,
    replace_text,
    saved,
    with_two_directories,
)

from export.sources.program import read_program


class Small(torch.nn.Module):
    """Has a buffer that nothing reads, and a block that becomes a graph of its own."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(192, 10)
        self.register_buffer("spare", torch.zeros(4))

    def forward(self, x):
        with torch.no_grad():
            x = x * 2
        return {"logits": self.head(x.relu().flatten(1))}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A benign program; nobody changes it."""
    return write_program(Small(), tmp_path_factory.mktemp("program") / "model.pt2")


@pytest.fixture
def path(written, tmp_path):
    """A copy of the program."""
    return shutil.copy(written, tmp_path / "model.pt2")


@pytest.fixture
def trap(tmp_path):
    """A file that stands where an attack succeeded."""
    place = tmp_path / "trap"
    yield place
    assert not place.exists()


def touch(trap):
    """Return source without dots and double quotes that makes the trap."""
    return f"getattr(__import__('os'), 'mkdir')('{trap}')"


def test_the_trap_works(tmp_path):
    torch.save(Malicious(tmp_path / "trap"), tmp_path / "model.pt")
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize("how", ["torch.save", "pickle", "torch.save, older"])
def test_a_pickle_is_refused_and_not_run(how, trap, refused, tmp_path):
    path = tmp_path / "model.pt2"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(trap)))
    else:
        zipped = how == "torch.save"
        torch.save(Malicious(trap), path, _use_new_zipfile_serialization=zipped)
    refused(path, "torch.export.save")


def pickled_weight(files, trap):
    name = "data/weights/model_weights_config.json"
    config = json.loads(files[name])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    files[f"data/weights/{entry['path_name']}"] = saved(Malicious(trap))
    files[name] = json.dumps(config).encode()


def pickled_constant(files, trap):
    files["data/constants/opaque_obj_0"] = pickle.dumps(Malicious(trap))
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False}
    config = {"config": {"c": {**entry, "tensor_meta": None}}}
    files["data/constants/model_constants_config.json"] = json.dumps(config).encode()


def constant_elsewhere(files, trap):
    files["extra/opaque"] = pickle.dumps(Malicious(trap))
    entry = {"path_name": "opaque_obj_0/../../../extra/opaque", "is_param": False}
    config = {"config": {"c": {**entry, "use_pickle": False, "tensor_meta": None}}}
    files["data/constants/model_constants_config.json"] = json.dumps(config).encode()


def compiled_library(files, _):
    files["data/aotinductor/model/model.so"] = b"\x7fELF"


def second_program(files, _):
    files["models/other.json"] = files["models/model.json"]


def older_format(files, trap):
    files["data/weights/model.pt"] = saved({"head.weight": Malicious(trap)})


def later_version(files, _):
    change_program(files, lambda p: p["schema_version"].update(major=99))


def huge_weight(files, _):
    name = "data/weights/model_weights_config.json"
    config = json.loads(files[name])
    entry = config["config"]["spare"]
    entry["tensor_meta"]["sizes"] = [{"as_int": 10**10}]
    files[f"data/weights/{entry['path_name']}"] = b""
    files[name] = json.dumps(config).encode()


ARCHIVES = {
    pickled_weight: "the pickle weight_",
    pickled_constant: "the file data/constants/opaque_obj_0",
    constant_elsewhere: "the file 'opaque_obj_0/",
    compiled_library: "the file data/aotinductor",
    second_program: "the file models/other.json",
    older_format: "the file data/weights/model.pt",
    later_version: "version 99 of the format",
    huge_weight: r"0 bytes for \[10000000000\]",
}


@pytest.mark.parametrize("attack", ARCHIVES)
def test_an_archive_of_more_than_plain_weights_is_refused(attack, path, trap, refused):
    change_archive(path, lambda files: attack(files, trap))
    refused(path, f"nothing that runs code, got {ARCHIVES[attack]}")


def evaluated_size(files, trap):
    replace_text(files, SIZE, f"__import__('pathlib').Path('{trap}').touch() or 4")


def endless_size(files, _):
    replace_text(files, SIZE, "9**9**9**9")


def slow_size(files, _):
    replace_text(files, SIZE, f"CeilDiv(Max({SIZE}, Integer(3)), Integer(2))")


def many_sizes(files, _):
    def change(program):
        values = program["graph_module"]["graph"]["sym_int_values"]
        for i in range(201):
            size = f"Add({SIZE}, Integer({i}))"
            values[f"n{i}"] = {"as_expr": {"expr_str": size, "hint": None}}

    change_program(files, change)


def power_of_powers(files, _):
    replace_text(files, SIZE, f"Pow({'Pow(' * 19}Integer(9){', Integer(8))' * 20}")


def long_size(files, _):
    replace_text(files, SIZE, f"Add({', '.join(['Integer(7)'] * 70)})")


def endless_symbols(files, _):
    bounds = {"min_val": 0, "max_val": None}
    change_program(files, lambda p: p["range_constraints"].update(u999999999999=bounds))


def endless_products(files, _):
    change_program(files, add_products)


def name_of_a_placeholder(files, trap):
    replace_text(files, "x", f"x={touch(trap)}")


def name_of_a_weight(files, trap):
    name = f'" + str({touch(trap)}) + "'
    replace_text(files, "spare", name)
    config = files["data/weights/model_weights_config.json"].decode()
    config = config.replace('"spare"', json.dumps(name))
    files["data/weights/model_weights_config.json"] = config.encode()


def name_of_a_graph(files, _):
    replace_text(files, "submod_1", "forward")


def name_of_an_argument(files, trap):
    signature(files, forward_arg_names=[f"x={touch(trap)}"])


def keyword_of_an_input(files, trap):
    leaf = {"type": None, "context": None, "children_spec": []}
    args = {"type": "builtins.tuple", "context": "null", "children_spec": []}
    names = json.dumps([f"x={touch(trap)}"])
    kwargs = {"type": "builtins.dict", "context": names, "children_spec": [leaf]}
    tree = {"type": "builtins.tuple", "context": "null", "children_spec": [args, kwargs]}
    signature(files, forward_arg_names=None, in_spec=json.dumps([1, tree]))


def signature(files, **fields):
    def change(program):
        program["graph_module"]["module_call_graph"][0]["signature"].update(fields)

    change_program(files, change)


def default_of_an_output(files, _):
    factory = {"default_factory_module": Hidden.name, "default_factory_name": "Kind"}
    context = {**factory, "dict_context": ["logits"]}
    outputs(files, {"type": "collections.defaultdict", "context": context})


def key_of_an_output(files, _):
    key = {"__enum__": True, "fqn": f"{Hidden.name}:Kind", "name": "a"}
    outputs(files, {"type": "builtins.dict", "context": json.dumps([key])})


def outputs(files, container):
    leaf = {"type": None, "context": None, "children_spec": []}
    signature(files, out_spec=json.dumps([1, {**container, "children_spec": [leaf]}]))


def other_operator(files, _):
    replace_text(files, "torch.ops.aten.relu.default", "torch.os.system")


def operator_as_argument(files, trap):
    call(files, "_operator.call", {"as_operator": "torch.os.mkdir"}, {"as_string": str(trap)})


def operator_that_writes(files, trap):
    call(
        files, "torch.ops.aten.save.default", {"as_tensor": {"name": "x"}}, {"as_string": str(trap)}
    )


def operator_that_maps_a_file(files, trap):
    arguments = {"as_string": str(trap)}, {"as_bool": True}, {"as_int": 4}
    call(files, "torch.ops.aten.from_file.default", *arguments)


def call(files, target, *arguments):
    names = {"torch.ops.aten.save.default": ("item", "filename")}.get(
        target, ("filename", "shared", "size")
    )
    node = {
        "target": target,
        "inputs": [
            {"name": name, "arg": argument, "kind": 1}
            for name, argument in zip(names, arguments, strict=False)
        ],
        "outputs": [{"as_tensor": {"name": "call"}}],
        "metadata": {},
        "name": "call",
    }

    def change(program):
        graph = program["graph_module"]["graph"]
        graph["nodes"].insert(0, node)
        graph["tensor_values"]["call"] = graph["tensor_values"]["b_spare"]

    change_program(files, change)


SIZE = "Symbol('s77', positive=True, integer=True)"
PROGRAMS = {
    evaluated_size: "the size .*__import__",
    endless_size: r"the size .*9\*\*9\*\*9",
    power_of_powers: "the size 'Pow",
    slow_size: "the size .CeilDiv",
    many_sizes: "more than 200 different symbolic sizes",
    long_size: "the size .*Add",
    endless_symbols: "the symbol 'u999999999999'",
    endless_products: "a size that is a product of 128 sizes",
    name_of_a_placeholder: "the name .x=getattr",
    name_of_a_weight: r"the name '\" \+ str\(getattr",
    name_of_a_graph: "the name 'forward'",
    name_of_an_argument: "the name .x=getattr",
    keyword_of_an_input: "the name .x=getattr",
    default_of_an_output: "the structure .*collections.defaultdict",
    key_of_an_output: "the structure",
    other_operator: "the operator 'torch.os.system'",
    operator_as_argument: "the operator '_operator.call'",
    operator_that_writes: "the operator 'torch.ops.aten.save.default'",
    operator_that_maps_a_file: "the operator 'torch.ops.aten.from_file.default'",
}


@pytest.mark.parametrize("attack", PROGRAMS)
def test_a_program_of_more_than_tensors_is_refused(
    attack, path, trap, refused, tmp_path, monkeypatch
):
    Hidden.write(tmp_path, trap)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, Hidden.name, raising=False)
    change_archive(path, lambda files: attack(files, trap))
    refused(path, f"nothing that runs code, got {PROGRAMS[attack]}")


def guard(files, trap):
    code = [f"__import__('pathlib').Path('{trap}').touch() or True"]
    change_program(files, lambda p: p.update(guards_code=code))


def example_inputs(files, trap):
    files["data/sample_inputs/model.pt"] = saved(Malicious(trap))


def metadata(files, _):
    entry = {"source_fn_stack": "a,torch.os.system", "custom": "[", "from_node": "{"}
    nodes = "graph_module", "graph", "nodes"
    change_program(files, lambda p: p[nodes[0]][nodes[1]][nodes[2]][0].update(metadata=entry))


@pytest.mark.parametrize("attack", [guard, example_inputs, metadata])
def test_what_a_translation_does_not_need_is_left_out(attack, path, trap):
    change_archive(path, lambda files: attack(files, trap))
    scores = read_program(path).module()(torch.zeros(2, 3, 8, 8))
    assert scores["logits"].shape == (2, 10)
    assert not trap.exists()


def test_a_file_is_read_by_one_parser(path, trap, refused):
    files = read_archive(path)
    later = dict(files)
    later_version(later, None)  # makes PyTorch look for an older format in the same file
    hidden = {
        "version": b"8.20",
        "serialized_exported_program.json": files["models/model.json"],
        "serialized_state_dict.pt": saved({}),
        "serialized_constants.pt": saved(Malicious(trap)),
        "serialized_example_inputs.pt": b"",
    }
    shown = {f"model/{name}": content for name, content in later.items()}
    path.write_bytes(with_two_directories(shown, hidden))
    refused(path, "got the file serialized_exported_program.json")


def test_a_program_that_does_not_fit_its_outputs_is_refused(path, refused):
    keys = {"type": "builtins.dict", "context": json.dumps(["logits", "more"])}
    change_archive(path, lambda files: outputs(files, keys))
    refused(path, "expected a program that runs in .*, it failed")


def test_an_archive_that_was_only_packed_anew_is_the_same(path, written):
    change_archive(path, lambda files: None)
    x = torch.rand(3, 3, 8, 8)
    expected = read_program(written).module()(x)["logits"]
    torch.testing.assert_close(read_program(path).module()(x)["logits"], expected)


@pytest.mark.parametrize("content", [b"", b"no program", b"PK\x03\x04 cut off"])
def test_other_bytes_are_refused(content, refused, tmp_path):
    (tmp_path / "model.pt2").write_bytes(content)
    refused(tmp_path / "model.pt2", "expected a program that torch.export.save wrote")


def test_a_missing_file_is_refused(refused, tmp_path):
    refused(tmp_path / "none.pt2", "is nothing")
