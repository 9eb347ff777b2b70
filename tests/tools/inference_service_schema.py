"""Extract which fields an InferenceService has, from KServe's published Python package.

    pip download --no-deps kserve==0.21.0 kubernetes==31.0.0
    python tests/tools/inference_service_schema.py kserve-*.whl kubernetes-*.whl

The packages hold a class for each part of the resource, generated from its OpenAPI description.
They are read and not imported: `kserve` brings some thirty further packages, and only the names and
types are wanted. The result, `tests/data/inference_service.json`, is committed.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).parent.parent / "data" / "inference_service.json"
CLASSES = {
    "V1beta1InferenceService": "kserve/models/v1beta1_inference_service.py",
    "V1beta1InferenceServiceSpec": "kserve/models/v1beta1_inference_service_spec.py",
    "V1beta1PredictorSpec": "kserve/models/v1beta1_predictor_spec.py",
    "V1beta1ModelSpec": "kserve/models/v1beta1_model_spec.py",
    "V1beta1ModelFormat": "kserve/models/v1beta1_model_format.py",
    "V1ObjectMeta": "kubernetes/client/models/v1_object_meta.py",
    "V1ContainerPort": "kubernetes/client/models/v1_container_port.py",
    "V1ResourceRequirements": "kubernetes/client/models/v1_resource_requirements.py",
}
_SCALARS = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def complaints(value: Any, kind: str, schema: dict[str, Any], at: str = "") -> list[str]:
    """Return what does not fit a type of the schema: unknown or missing fields, other types."""
    if kind in _SCALARS:
        is_it = isinstance(value, _SCALARS[kind]) and isinstance(value, bool) == (kind == "bool")
        return [] if is_it else [f"{at}: {value!r} is no {kind}"]
    if found := re.fullmatch(r"list\[(\w+)\]", kind):
        if not isinstance(value, list):
            return [f"{at}: {value!r} is no list"]
        return [
            c
            for n, item in enumerate(value)
            for c in complaints(item, found[1], schema, f"{at}[{n}]")
        ]
    if not isinstance(value, dict):
        return [f"{at}: {value!r} is no object"]
    if found := re.fullmatch(r"dict\(str, (\w+)\)", kind):
        return [c for key in value for c in complaints(value[key], found[1], schema, f"{at}.{key}")]
    return _object_complaints(value, schema[kind], schema, at)


def _object_complaints(
    value: dict[str, Any], described: dict[str, Any], schema: dict[str, Any], at: str
) -> list[str]:
    fields = described["fields"]
    found = [f"{at}: {key} is unknown" for key in value if key not in fields]
    found += [f"{at}: {key} is missing" for key in described["required"] if key not in value]
    for key in value.keys() & fields.keys():
        found += complaints(value[key], fields[key], schema, f"{at}.{key}")
    return found


def describe(source: str) -> dict[str, Any]:
    """Return the fields of a generated class by their JSON names, and those that are required."""
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in {"openapi_types", "attribute_map"}
    }
    names = tables["attribute_map"]
    fields = {names[key]: kind for key, kind in tables["openapi_types"].items()}
    required = re.findall(r"Invalid value for `(\w+)`, must not be `None`", source)
    return {"fields": fields, "required": sorted({names[key] for key in required})}


def extract(wheels: list[Path]) -> dict[str, Any]:
    """Return the schema that lies in wheels of kserve and kubernetes."""
    schema: dict[str, Any] = {"source": sorted(wheel.name for wheel in wheels)}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            held = set(archive.namelist())
            for name, path in CLASSES.items():
                if path in held:
                    schema[name] = describe(archive.read(path).decode())
    return schema


def main() -> int:
    """Write the schema."""
    text = json.dumps(extract([Path(word) for word in sys.argv[1:]]), indent=1, sort_keys=True)
    SCHEMA.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
