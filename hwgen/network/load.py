"""Reading a network from a file, whatever its format."""

from pathlib import Path

from hwgen.errors import UserError

from .graph import Network

__all__ = ["load_network"]

#: TFLite's file identifier, which follows the first four bytes.
TFLITE_IDENTIFIER = b"TFL3"


def load_network(path: Path) -> Network:
    """Return the network of an ONNX (QDQ, QCDQ, QLinear, QONNX) or int8 TFLite file.

    Raises
    ------
    UserError
        If the file is not one of these, or is bad, or needs what is not supported, or if the
        package that reads its format is not installed.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f"model {str(path)!r} cannot be read: {error.strerror}") from error
    suffix = path.suffix.lower()
    if start[4:] == TFLITE_IDENTIFIER:
        suffix = ".tflite"
    if suffix not in (".onnx", ".tflite"):
        raise UserError(f"model {str(path)!r} must be an .onnx or a .tflite file")
    try:
        return _read_tflite(path) if suffix == ".tflite" else _read_onnx(path)
    except ModuleNotFoundError as error:
        raise UserError(
            f"reading {path.name!r} needs the Python package {error.name!r}, which is not installed"
        ) from error


def _read_tflite(path: Path) -> Network:
    from .tflite import read_tflite

    return read_tflite(path)


def _read_onnx(path: Path) -> Network:
    from .onnx_file import QONNX_OPERATORS, OnnxGraph

    graph = OnnxGraph.load(path)
    if any(node.op in QONNX_OPERATORS for node in graph.nodes):
        from .qonnx import read_qonnx

        return read_qonnx(graph)
    from .onnx_qdq import read_qdq

    return read_qdq(graph)
