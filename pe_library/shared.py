"""Components that are emitted once and instantiated many times.

Amaranth writes each instance of a component as a module of its own: a 64×64 array is 4,097 modules.
A :class:`SharedComponent` becomes an ``Instance`` of its one definition while Verilog is emitted
(``hwgen.verilog`` is the platform then) and is an ordinary component everywhere else, so that
Amaranth's own simulator needs nothing special.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from amaranth.hdl import Instance, Module
from amaranth.lib import wiring

__all__ = ["DefinitionPlatform", "SharedComponent"]


@runtime_checkable
class DefinitionPlatform(Protocol):
    """A platform that keeps one definition for each distinct component."""

    def instance_of(self, component: "SharedComponent") -> Instance | None:
        """Return an instance of the component's definition; None if it is being defined now."""


class SharedComponent(wiring.Component):
    """A component that has one definition, however often it is instantiated.

    Subclasses give :attr:`definition` and :meth:`body` where other components give ``elaborate``.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Tell type checkers that ports are attributes."""

    @property
    @abstractmethod
    def definition(self) -> str:
        """Verilog name of the definition: the same exactly where class and parameters are."""

    @abstractmethod
    def body(self) -> Module:
        """Return what the definition holds."""

    def elaborate(self, platform: Any) -> Any:
        if isinstance(platform, DefinitionPlatform):
            instance = platform.instance_of(self)
            if instance is not None:
                return instance
        return self.body()
