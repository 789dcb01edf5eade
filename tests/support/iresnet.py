"""ONNX files of ArcFace's large networks, at true size, with random weights: made here, since theirs may not travel."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IRESNET50, IRESNET100 = (3, 4, 14, 3), (3, 13, 30, 3)  # w600k_r50 of buffalo_l, glintr100 of antelopev2


class _Graph:
    """Nodes in a row; every layer appends itself and returns the name of its output."""

    def __init__(self, seed: int):
        self.nodes, self.weights, self.rng = [], [], np.random.default_rng(seed)

    def add(self, operation: str, inputs: list[str], *weights: np.ndarray, **attributes) -> str:
        names = [self.weight(value) for value in weights]
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, [*inputs, *names], [output], **attributes))
        return output

    def weight(self, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), f"p{len(self.weights)}"))
        return self.weights[-1].name

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return self.rng.standard_normal(shape, np.float32) * np.float32(scale)

    def conv(self, x: str, width_in: int, width: int, size: int, stride: int = 1, gain: float = 1.0) -> str:
        scale = gain / (width_in * size * size) ** 0.5
        return self.add(
            "Conv",
            [x],
            self.normal(width, width_in, size, size, scale=scale),
            self.normal(width, scale=0.1),
            dilations=[1, 1],
            group=1,
            kernel_shape=[size, size],
            pads=[size // 2] * 4,
            strides=[stride, stride],
        )

    def norm(self, x: str, width: int) -> str:
        return self.add(
            "BatchNormalization",
            [x],
            1 + self.normal(width, scale=0.1),
            self.normal(width, scale=0.1),
            self.normal(width, scale=0.1),
            1 + np.abs(self.normal(width, scale=0.1)),
            epsilon=1e-5,
        )

    def prelu(self, x: str, width: int) -> str:
        return self.add("PRelu", [x], 0.25 + self.normal(width, 1, 1, scale=0.1))

    def save(self, path: Path, output: str) -> Path:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "arcface",
            [value("input.1", TensorProto.FLOAT, ["N", 3, 112, 112])],
            [value(output, TensorProto.FLOAT, None)],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
        onnx.save(model, str(path))
        return path


def write_iresnet(path: Path, blocks: tuple[int, ...], seed: int = 0) -> Path:
    """IResNet (Duta et al. 2020) as PyTorch exports ArcFace: every convolution has swallowed the norm behind it."""
    graph = _Graph(seed)
    x, width_in = graph.prelu(graph.conv("input.1", 3, 64, 3), 64), 64
    for width, count in zip((64, 128, 256, 512), blocks):
        for block in range(count):
            stride = 2 if block == 0 else 1
            y = graph.prelu(graph.conv(graph.norm(x, width_in), width_in, width, 3), width)
            y = graph.conv(y, width, width, 3, stride, gain=0.3)  # so that the sum does not grow from block to block
            x = graph.add("Add", [y, graph.conv(x, width_in, width, 1, stride) if block == 0 else x])
            width_in = width
    flat = graph.add("Flatten", [graph.norm(x, 512)], axis=1)
    x = graph.add(
        "Gemm", [flat], graph.normal(512, 25088, scale=25088**-0.5), graph.normal(512), alpha=1.0, beta=1.0, transB=1
    )
    return graph.save(path, graph.norm(x, 512))


def write_oddities(path: Path) -> Path:
    """Every other operation that a recogniser's export may hold, MXNet's own normalisation of the picture included."""
    graph = _Graph(1)
    x = graph.add("Sub", ["input.1"], np.float32([127.5]))
    x = graph.add("Mul", [x], np.float32([0.0078125]))
    x = graph.add("Conv", [x], graph.normal(8, 3, 3, 3, scale=0.2), pads=[0, 0, 1, 1], strides=[4, 4])  # no bias
    x = graph.add("Relu", [x])
    x = graph.add("Conv", [x], graph.normal(8, 1, 3, 3, scale=0.3), graph.normal(8), group=8, dilations=[2, 2])
    x = graph.add("Div", [x], np.float32([2.0]))
    x = graph.add("Identity", [x])
    x = graph.add("Dropout", [x])
    shape = helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.int64([1, -1])))
    graph.nodes.append(shape)
    x = graph.add("Reshape", [x, "shape"])
    x = graph.add("MatMul", [x], graph.normal(8 * 24 * 24, 16, scale=0.02))
    x = graph.add("Gemm", [x], graph.normal(16, 4), graph.normal(4), alpha=0.5, beta=2.0)
    x = graph.add("Gemm", [x], graph.normal(4, 4), transA=0, transB=1)  # no bias
    return graph.save(path, x)
