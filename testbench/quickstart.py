"""The quick start: a real, quantized layer through the emitted Verilog of each PE.

A network of one hidden layer is trained on the handwritten digits that scikit-learn carries. Its
hidden layer (64×64) is quantized for each PE and multiplied, for the held-out images, on the
generated array in simulation. The sums are scaled back, and a linear classifier, refitted to the
quantized layer's answers on the training images (golden model), names the digits.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.config import ArrayConfig
from hwgen.errors import UserError
from pe_library import Bipolar

from .golden import golden_gemm
from .simulate import Simulation, simulate

__all__ = ["PES", "QuantizedLayer", "Report", "TrainedNetwork", "quickstart", "train"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: The PEs that are shown.
PES = ("int8", "lightpe1", "lightpe2", "bnn32")


class QuantizedLayer:
    """``relu(x @ weights + bias)`` with its operands on a PE's grids.

    Weights are scaled per output so that the greatest one is the format's greatest. Pixels, 0 to 1,
    are scaled likewise. In the bipolar format a pixel is ``(a + 1) / 2`` and a weight
    ``mean(|w|) * sign(w)`` (XNOR-Net, arXiv 1603.05279, section 3.1).
    """

    def __init__(self, config: ArrayConfig, weights: FloatArray, bias: FloatArray) -> None:
        self.format = config.pe.activation
        weight_format = config.pe.weight
        if isinstance(weight_format, Bipolar):
            scale = np.abs(weights).mean(axis=0)
            self.input_scale, offset = 0.5, 0.5 * weights.sum(axis=0)
        else:
            scale = np.abs(weights).max(axis=0) / weight_format.maximum
            self.input_scale, offset = 1 / self.format.maximum, np.zeros(len(bias))
        self.weights = weight_format.quantize(weights, scale)
        self.output_scale = self.input_scale * scale
        self.bias = bias + offset

    def activations(self, pixels: FloatArray) -> IntArray:
        """Quantize images, (images, 64) of 0 to 1."""
        if isinstance(self.format, Bipolar):
            return self.format.quantize(2 * pixels - 1)
        return self.format.quantize(pixels, self.input_scale)

    def outputs(self, sums: IntArray) -> FloatArray:
        """Scale the integer sums back, add the bias, apply ReLU."""
        return np.maximum(sums * self.output_scale + self.bias, 0)


@dataclass
class Report:
    """Accuracy and simulation of each PE.

    Attributes
    ----------
    float_accuracy : float
        Of the network as trained, on the held-out images, 0 to 1.
    rows : list of (configuration, accuracy, simulation)
        One for each PE.
    """

    float_accuracy: float
    images: int
    rows: list[tuple[ArrayConfig, float, Simulation]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every array was right in every sum."""
        return bool(self.rows) and all(found.passed for _, _, found in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {
            "passed": self.passed,
            "images": self.images,
            "float_accuracy": self.float_accuracy,
            "pes": {
                config.name: {"accuracy": accuracy, **found.as_dict()}
                for config, accuracy, found in self.rows
            },
        }

    def __str__(self) -> str:
        config = self.rows[0][0]
        lines = [
            f"hidden layer 64×64, {self.images} held-out digits, {config.rows}×{config.cols} "
            f"{config.dataflow} arrays; accuracy of the float network {self.float_accuracy:.1%}",
            "",
            f"{'PE':<10} {'accuracy':>8} {'sums checked':>13} {'mismatches':>11} "
            f"{'cycles':>8} {'utilisation':>12}",
        ]
        for config, accuracy, found in self.rows:
            lines.append(
                f"{config.name:<10} {accuracy:>8.1%} {found.checks:>13,} {found.mismatches:>11,} "
                f"{found.cycles:>8,} {found.utilisation:>12.1%}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """The float network and its data.

    Attributes
    ----------
    weights, bias : ndarray
        Of the hidden layer, (64, 64) and (64,).
    accuracy : float
        On the held-out images, 0 to 1.
    train, test : tuple of ndarray
        Images, (count, 64) of 0 to 1, and their digits.
    """

    weights: FloatArray
    bias: FloatArray
    accuracy: float
    train: tuple[FloatArray, IntArray]
    test: tuple[FloatArray, IntArray]


@functools.cache
def train(seed: int = 0) -> TrainedNetwork:
    """Train the network; ``seed`` decides training and the split of the data.

    Raises
    ------
    UserError
        If scikit-learn is missing, or the seed is not one of its seeds.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise UserError(
            "scikit-learn must be installed for the quick start: pip install 'hwgen[quickstart]'"
        ) from error
    if not 0 <= seed < 1 << 32:
        raise UserError(f"seed must be an integer from 0 to {(1 << 32) - 1}, not {seed}")
    images, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images / 16, digits, test_size=0.25, random_state=seed, stratify=digits
    )
    network = MLPClassifier((64,), max_iter=60, learning_rate_init=5e-3, tol=0, random_state=seed)
    _quiet(network.fit, train_x, train_y)
    return TrainedNetwork(
        network.coefs_[0], network.intercepts_[0], float(network.score(test_x, test_y)),
        (train_x, train_y), (test_x, test_y),
    )  # fmt: skip


def quickstart(configs: Sequence[ArrayConfig], *, seed: int = 0, progress: bool = False) -> Report:
    """Train, quantize, simulate and compare; ``seed`` decides training and the split of the data.

    Raises
    ------
    UserError
        If scikit-learn is missing.
    """
    network = train(seed)
    from sklearn.linear_model import LogisticRegression

    train_x, train_y = network.train
    test_x, test_y = network.test
    report = Report(network.accuracy, len(test_y))
    for config in configs:
        layer = QuantizedLayer(config, network.weights, network.bias)
        known = golden_gemm(config, layer.activations(train_x), layer.weights)
        classifier = LogisticRegression(max_iter=200, random_state=seed)
        _quiet(classifier.fit, layer.outputs(known), train_y)
        found = simulate(config, layer.activations(test_x), layer.weights, progress=progress)
        accuracy = float(classifier.score(layer.outputs(found.result), test_y))
        report.rows.append((config, accuracy, found))
    return report


def _quiet(fit: Any, *data: Any) -> None:
    """Train without the warning that a fixed number of steps may not be the optimum."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit(*data)
