"""ONNX recognisers in torch; only the few operations that ArcFace networks use are supported."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import BadFile, MissingModel, MissingPackage

Operation = Callable[..., Tensor]


class OnnxNetwork(nn.Module):
    """A frozen network with one input and one output. Runs in fp32, even under autocast, with gradients to the input.

    Raises MissingPackage, MissingModel, BadFile (unreadable, or an operation that recognisers do not use).
    """

    def __init__(self, path: Path):
        super().__init__()
        with torch.inference_mode(False):  # ComfyUI runs nodes in inference mode, whose tensors cannot have gradients
            self._build(Path(path))

    def _build(self, path: Path) -> None:
        graph, weights = _read(path)
        names = {}
        for i, (name, value) in enumerate(weights.items()):
            names[name] = f"w{i}"
            self.register_buffer(names[name], value, persistent=False)
        inputs = [value.name for value in graph.input if value.name not in weights]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise BadFile(f"{path} is no recogniser: it has {len(inputs)} inputs and {len(graph.output)} outputs.")
        self.source, self.target = inputs[0], graph.output[0].name
        self.operations = [node.op_type for node in graph.node]
        self._weights = names
        self._plan = _plan(graph, path, self.target)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            # channels_last is 10 % faster on a CPU
            values = {self.source: x.float().contiguous(memory_format=torch.channels_last)}
            for operation, inputs, output, spent in self._plan:
                values[output] = operation(
                    *(getattr(self, self._weights[name]) if name in self._weights else values[name] for name in inputs)
                )
                for name in spent:
                    values.pop(name, None)
            return values[self.target]


def _read(path: Path) -> tuple:
    """(graph, weights by name); constant nodes count as weights."""
    try:
        import onnx
    except ImportError as error:
        raise MissingPackage(
            "The identity loss reads the recogniser with the package onnx, which is not installed: pip install onnx"
        ) from error
    if not path.is_file():
        raise MissingModel(f"There is no recogniser at {path}: name the .onnx file of a face pack.")
    try:
        graph = onnx.load(str(path)).graph
        weights = {weight.name: onnx.numpy_helper.to_array(weight) for weight in graph.initializer}
        weights |= {
            node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
            for node in graph.node
            if node.op_type == "Constant"
        }
    except Exception as error:  # protobuf's own error types are private
        raise BadFile(f"{path} cannot be read as ONNX ({str(error)[:200]}): download the face pack again.") from error
    tensors = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
    return graph, {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def _plan(graph, path: Path, target: str) -> list[tuple[Operation, list[str], str, list[str]]]:
    """The graph's operations in order: (operation, inputs, output, values no longer needed afterwards)."""
    import onnx

    nodes = [node for node in graph.node if node.op_type != "Constant"]
    unknown = sorted({node.op_type for node in nodes} - OPERATIONS.keys())
    if unknown:
        raise BadFile(
            f"{path} uses {', '.join(unknown)}, which the identity loss does not support (it supports "
            f"{', '.join(sorted(OPERATIONS))}). Use w600k_mbf (buffalo_s), w600k_r50 (buffalo_l) or "
            "glintr100 (antelopev2)."
        )
    last = {name: i for i, node in enumerate(nodes) for name in node.input if name != target}
    plan = []
    for i, node in enumerate(nodes):
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        inputs = [name for name in node.input if name]
        if node.op_type == "Dropout":
            inputs = inputs[:1]
        plan.append(
            (
                OPERATIONS[node.op_type](attributes),
                inputs,
                node.output[0],
                [name for name in inputs if last.get(name) == i],
            )
        )
    return plan


def _conv(a: dict) -> Operation:
    top, left, bottom, right = a.get("pads", (0, 0, 0, 0))
    even = (top, left) == (bottom, right)
    options = dict(
        stride=tuple(a.get("strides", (1, 1))), dilation=tuple(a.get("dilations", (1, 1))), groups=a.get("group", 1)
    )

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if even:
            return F.conv2d(x, weight, bias, padding=(top, left), **options)
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, **options)

    return conv


def _gemm(a: dict) -> Operation:
    def gemm(x: Tensor, weight: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        x = x.T if a.get("transA", 0) else x
        weight = weight.T if a.get("transB", 0) else weight
        return a.get("alpha", 1.0) * (x @ weight) + a.get("beta", 1.0) * bias

    return gemm


def _reshape(a: dict) -> Operation:
    def reshape(x: Tensor, shape: Tensor) -> Tensor:
        # The shape was exported with a batch of one.
        return x.reshape(len(x), *shape[1:].tolist())

    return reshape


def _batch_norm(a: dict) -> Operation:
    return lambda x, weight, bias, mean, var: F.batch_norm(x, mean, var, weight, bias, eps=a.get("epsilon", 1e-5))


def _same(operation: Operation) -> Callable[[dict], Operation]:
    return lambda attributes: operation


OPERATIONS: dict[str, Callable[[dict], Operation]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "PRelu": _same(lambda x, slope: F.prelu(x, slope.flatten())),
    "Relu": _same(F.relu),
    "Add": _same(torch.add),
    "Sub": _same(torch.sub),
    "Mul": _same(torch.mul),
    "Div": _same(torch.div),
    "Flatten": lambda a: lambda x: x.flatten(a.get("axis", 1)),
    "Reshape": _reshape,
    "Gemm": _gemm,
    "MatMul": _same(torch.matmul),
    "Identity": _same(lambda x: x),
    "Dropout": _same(lambda x: x),
}
