"""All that a model needs and is not there, told at once."""

from hwgen.errors import UserError

__all__ = ["Unsupported"]


class Unsupported:
    """Reasons why a model is not supported, gathered over the whole of it.

    Parameters
    ----------
    model : str
        Name of the model.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.reasons: list[str] = []

    def add(self, node: object, reason: object) -> None:
        """Note why a node is not supported; once for each node and reason."""
        line = f"{node}: {reason}"
        if line not in self.reasons:
            self.reasons.append(line)

    def check(self) -> None:
        """Raise one UserError that lists all, if there are any."""
        if self.reasons:
            count = len(self.reasons)
            listed = "".join(f"\n  {reason}" for reason in self.reasons)
            raise UserError(
                f"model {self.model!r} has {count} unsupported node{'s' * (count > 1)}:{listed}"
            )
